-- List up to 200 running trials whose lease ran out. The caller requeues each, fenced as ever.
--
-- KEYS     what the keys of all trials' hashes begin with, set of running trials
-- Returns {trial, attempt, trial, attempt, …}.

local expired = {}
for _, trial in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now(), 'LIMIT', 0, 200)) do
  table.insert(expired, trial)
  table.insert(expired, redis.call('HGET', KEYS[1] .. trial, 'attempt') or '0')
end
return expired
