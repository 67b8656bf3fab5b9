-- Put before every script here.

-- Return Redis' own clock in milliseconds: the only one that all machines share.
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Append an event to the study's stream (KEYS[3] of the scripts that do).
local function event(...)
  redis.call('XADD', KEYS[3], '*', ...)
end
