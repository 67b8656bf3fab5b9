-- Renew the lease of a running attempt.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, attempt, lease in ms
-- Returns why the attempt must stop (a StopReason), or ''.

local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
redis.call('ZADD', KEYS[2], 'XX', now() + ARGV[3], ARGV[1])
return s[3] or ''
