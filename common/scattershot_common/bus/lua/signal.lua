-- Ask a running trial to stop; kill one that waits or is paused here and now.
--
-- The first kill stands, whatever comes after it.
--
-- KEYS     trial's hash, set of running trials, event stream
-- ARGV     trial, signal ('kill' or 'hold'), reason
-- Returns {state before ('gone' if unknown), worker, attempt}.

local s = redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt', 'signal')
if not s[1] then return {'gone', '', '0'} end
if s[1] == 'running' then
  if s[4] ~= 'kill' then
    redis.call('HSET', KEYS[1], 'signal', ARGV[2], 'reason', ARGV[3])
  end
elseif ARGV[2] == 'kill' and (s[1] == 'waiting' or s[1] == 'paused') then
  redis.call('HSET', KEYS[1], 'state', 'killed')
  event('e', 'killed', 't', ARGV[1], 'a', s[3], 'r', ARGV[3])
end
return {s[1], s[2] or '', s[3]}
