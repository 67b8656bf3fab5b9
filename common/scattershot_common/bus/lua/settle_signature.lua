-- Settle how trials of one signature are trained, unless another worker has.
--
-- KEYS     hash of how trials of each signature are trained, event stream
-- ARGV     signature, 'alone' or 'fused', reason
-- Returns what holds.

local kind = redis.call('HGET', KEYS[1], ARGV[1])
if kind then return kind end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', 'e', 'kind', 't', '-1', 'w', ARGV[1], 'y', ARGV[2], 'r', ARGV[3])
return ARGV[2]
