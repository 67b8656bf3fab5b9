-- Claim a waiting trial for a worker, if this attempt is its next one.
--
-- A worker may claim again what it has: its client repeats a command whose answer was lost with
-- the connection.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, attempt, worker, lease in ms
-- Returns {granted, epoch, checkpoint, until, state, failures}.

local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'epoch', 'checkpoint', 'until',
                     'worker', 'failures')
if s[1] == 'waiting' and tonumber(s[2]) + 1 == tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'state', 'running', 'attempt', ARGV[2], 'worker', ARGV[3])
  redis.call('HDEL', KEYS[1], 'signal', 'reason')
  event('e', 'started', 't', ARGV[1], 'a', ARGV[2], 'w', ARGV[3])
elseif s[1] ~= 'running' or s[2] ~= ARGV[2] or s[6] ~= ARGV[3] then
  return {0, 0, '', 0, s[1] or 'gone', 0}
end
redis.call('ZADD', KEYS[2], now() + ARGV[4], ARGV[1])
return {1, tonumber(s[3]), s[4], tonumber(s[5]), 'running', tonumber(s[7] or '0')}
