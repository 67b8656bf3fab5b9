-- Give every running trial a fresh lease: after an outage every lease has run out, though its
-- worker may live.
--
-- KEYS     what the keys of all trials' hashes begin with, set of running trials
-- ARGV     lease in ms

local until_ = now() + ARGV[1]
for _, trial in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  redis.call('ZADD', KEYS[2], 'XX', until_, trial)
end
return 0
