-- Make trials known, or give ended or paused ones a larger budget.
--
-- What is already so is left alone, so it may be sent twice. What the master knows and Redis has
-- lost (its last second, in a crash) is made good. One script for all: as one script each, 100,000
-- trials took 6 s.
--
-- KEYS[1]  what the keys of all trials' hashes begin with
-- ARGV[1]  JSON list of [trial, until, attempt, epoch, checkpoint, failures], all of them text
-- Returns a JSON list of [state, last attempt].

local function submit(key, until_, attempt, epoch, checkpoint, failures)
  local s = redis.call('HMGET', key, 'state', 'until', 'attempt', 'epoch')
  if not s[1] then
    redis.call('HSET', key, 'state', 'waiting', 'until', until_, 'attempt', attempt,
               'epoch', epoch, 'checkpoint', checkpoint, 'failures', failures)
    return {'waiting', attempt}
  end
  if tonumber(s[4]) < tonumber(epoch) then
    redis.call('HSET', key, 'epoch', epoch, 'checkpoint', checkpoint)
  end
  if tonumber(s[3]) < tonumber(attempt) and s[1] ~= 'running' then
    redis.call('HSET', key, 'attempt', attempt)
    s[3] = attempt
  end
  if tonumber(s[2]) < tonumber(until_) then
    redis.call('HSET', key, 'until', until_)
    if s[1] == 'paused' or s[1] == 'complete' then
      redis.call('HSET', key, 'state', 'waiting')
      s[1] = 'waiting'
    end
  end
  return {s[1], s[3]}
end

local answers = {}
for i, trial in ipairs(cjson.decode(ARGV[1])) do
  answers[i] = submit(KEYS[1] .. trial[1], unpack(trial, 2))
end
return cjson.encode(answers)
