-- Report an epoch of a running attempt, and renew its lease.
--
-- An epoch is counted once, whoever repeats it. Where Redis has lost the epoch before, the attempt
-- ends, and the next one trains that epoch again: no history has gaps.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, attempt, epoch, metrics (JSON), checkpoint ('' if none), lease in ms
-- Returns why the attempt must stop (a StopReason), or ''.

local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'epoch', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
if tonumber(ARGV[3]) > tonumber(s[3]) + 1 then return 'fenced' end
redis.call('ZADD', KEYS[2], 'XX', now() + ARGV[6], ARGV[1])
if tonumber(ARGV[3]) > tonumber(s[3]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'checkpoint', ARGV[5])
  event('e', 'report', 't', ARGV[1], 'a', ARGV[2], 'n', ARGV[3], 'm', ARGV[4], 'f', ARGV[5])
end
return s[4] or ''
