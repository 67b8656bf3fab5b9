-- Put RQ jobs on a queue that are alike but for their call.
--
-- KEYS     the queue, the set of all queues
-- ARGV     the fields that all jobs share (JSON list: name, value, …), then for each job its key,
--          its id and its call

local fields = cjson.decode(ARGV[1])
redis.call('SADD', KEYS[2], KEYS[1])
for i = 2, #ARGV, 3 do
  redis.call('HSET', ARGV[i], 'data', ARGV[i + 2], unpack(fields))
  redis.call('RPUSH', KEYS[1], ARGV[i + 1])
end
