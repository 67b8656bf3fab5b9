-- Make good a trial's end that the ledger knows and Redis has lost: nobody may train it again.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, state

local s = redis.call('HGET', KEYS[1], 'state')
if s == 'waiting' or s == 'running' then
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
  redis.call('HDEL', KEYS[1], 'signal')
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 0
