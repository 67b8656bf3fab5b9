-- End a running attempt with a result.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, attempt, state, reason, early ('1': complete though its budget is not used up)
-- Returns the trial's state, or 'fenced'.

local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'until', 'epoch', 'reason', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
local state, reason = ARGV[3], ARGV[4]
local grown = tonumber(s[3]) > tonumber(s[4]) and ARGV[5] ~= '1'
if (state == 'complete' or state == 'paused') and grown then
  state = 'waiting'   -- its budget grew while the last epoch was on its way
end
if s[6] == 'kill' and (state == 'waiting' or state == 'paused') then
  state = 'killed'    -- its kill came too late for this attempt, but there was to be another
end
if state == 'killed' and reason == '' then reason = s[5] or '' end
redis.call('HSET', KEYS[1], 'state', state)
redis.call('HDEL', KEYS[1], 'signal')
redis.call('ZREM', KEYS[2], ARGV[1])
event('e', state, 't', ARGV[1], 'a', ARGV[2], 'r', reason)
return state
