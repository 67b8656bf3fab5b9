-- End a running attempt without a result: the trial waits again, was to be killed, or has failed.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, attempt, outcome (an Outcome: crash and lost are failures), failures allowed,
--          reason
-- Returns the trial's state, or 'fenced'.

local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'signal', 'failures', 'reason')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
local state, reason, failures = 'waiting', ARGV[5], tonumber(s[4])
if ARGV[3] == 'crash' or ARGV[3] == 'lost' then
  failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
end
if s[3] == 'kill' then
  state, reason = 'killed', s[5] or ''
elseif failures > s[4] + 0 and failures >= tonumber(ARGV[4]) then
  state = 'failed'
end
redis.call('HSET', KEYS[1], 'state', state)
redis.call('HDEL', KEYS[1], 'signal')
redis.call('ZREM', KEYS[2], ARGV[1])
event('e', state, 't', ARGV[1], 'a', ARGV[2], 'r', reason, 'y', ARGV[3])
return state
