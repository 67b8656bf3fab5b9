"""Owns the truth about every trial: a Redis hash that only the Lua scripts here may change.

Each script is one atomic step, fenced by the attempt number, so that a worker that was stopped
past its lease and wakes up can change nothing. Leases use Redis' own clock, never a machine's.
Every change that the master must learn of is written to the study's stream by the same script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.keys import Keys
from scattershot_common.bus.outcome import Outcome, StopReason

if TYPE_CHECKING:
    from redis import Redis

#: Seconds a running trial belongs to its worker without a sign of life.
LEASE = 12.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim gave: where to go on from (`epoch` 0: from the start) and how far.

    `failures` is how many attempts before this one have failed.
    """

    granted: bool
    epoch: int = 0
    checkpoint: str = ""
    until: int = 0
    state: str = ""
    failures: int = 0


_NOW = """
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function event(...)
  redis.call('XADD', KEYS[3], '*', ...)
end
"""

# KEYS of all: trial hash, running set, event stream. ARGV[1] of all: the trial's number.
_SCRIPTS = {
    # ARGV: until, attempt, epoch, checkpoint, failures. Creates the trial, or gives an ended or
    # paused one a larger budget; what is already so is left alone, so it may be sent twice. What
    # the master knows and Redis has lost (its last second, in a crash) is made good.
    "submit": """
local s = redis.call('HMGET', KEYS[1], 'state', 'until', 'attempt', 'epoch')
if not s[1] then
  redis.call('HSET', KEYS[1], 'state', 'waiting', 'until', ARGV[2], 'attempt', ARGV[3],
             'epoch', ARGV[4], 'checkpoint', ARGV[5], 'failures', ARGV[6])
  return {'waiting', ARGV[3]}
end
if tonumber(s[4]) < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[4], 'checkpoint', ARGV[5])
end
if tonumber(s[3]) < tonumber(ARGV[3]) and s[1] ~= 'running' then
  redis.call('HSET', KEYS[1], 'attempt', ARGV[3])
  s[3] = ARGV[3]
end
if tonumber(s[2]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'until', ARGV[2])
  if s[1] == 'paused' or s[1] == 'complete' then
    redis.call('HSET', KEYS[1], 'state', 'waiting')
    s[1] = 'waiting'
  end
end
return {s[1], s[3]}
""",
    # ARGV: attempt, worker, lease (ms). A worker may claim again what it has: its client repeats
    # a command whose answer was lost with the connection.
    "claim": """
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
""",
    # ARGV: attempt, epoch, metrics (JSON), checkpoint, lease (ms). Where Redis has lost the epoch
    # before, the attempt ends, and the next one trains that epoch again: no history has gaps.
    "report": """
local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'epoch', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
if tonumber(ARGV[3]) > tonumber(s[3]) + 1 then return 'fenced' end
redis.call('ZADD', KEYS[2], 'XX', now() + ARGV[6], ARGV[1])
if tonumber(ARGV[3]) > tonumber(s[3]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'checkpoint', ARGV[5])
  event('e', 'report', 't', ARGV[1], 'a', ARGV[2], 'n', ARGV[3], 'm', ARGV[4], 'f', ARGV[5])
end
return s[4] or ''
""",
    # ARGV: attempt, lease (ms)
    "beat": """
local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
redis.call('ZADD', KEYS[2], 'XX', now() + ARGV[3], ARGV[1])
return s[3] or ''
""",
    # ARGV: attempt, state, reason, early (1: complete though its budget is not used up)
    "finish": """
local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'until', 'epoch', 'reason', 'signal')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
local state, reason = ARGV[3], ARGV[4]
local grown = tonumber(s[3]) > tonumber(s[4]) and ARGV[5] ~= '1'
if (state == 'complete' or state == 'paused') and grown then
  state = 'waiting'   -- its budget grew while the last epoch was on its way
end
if s[6] == 'kill' and (state == 'waiting' or state == 'paused') then
  state = 'killed'    -- its kill came too late to be heard, but it was to go on
end
if state == 'killed' and reason == '' then reason = s[5] or '' end
redis.call('HSET', KEYS[1], 'state', state)
redis.call('HDEL', KEYS[1], 'signal')
redis.call('ZREM', KEYS[2], ARGV[1])
event('e', state, 't', ARGV[1], 'a', ARGV[2], 'r', reason)
return state
""",
    # ARGV: state. The ledger knows its end, and Redis has lost it: nobody may train it again.
    "settle": """
local s = redis.call('HGET', KEYS[1], 'state')
if s == 'waiting' or s == 'running' then
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
  redis.call('HDEL', KEYS[1], 'signal')
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 0
""",
    # ARGV: signal (kill or hold), reason. The first kill stands, whatever comes after it.
    "signal": """
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
""",
    # ARGV: attempt, outcome (crash, lost, drain, hold, yield), failures allowed, reason
    "requeue": """
local s = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'signal', 'failures', 'reason')
if s[1] ~= 'running' or s[2] ~= ARGV[2] then return 'fenced' end
local state, reason, failures = 'waiting', ARGV[5], tonumber(s[4])
if ARGV[3] == 'crash' or ARGV[3] == 'lost' then
  failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
end
if s[3] == 'kill' then
  state, reason = 'killed', s[5] or ''
elseif failures > s[4] + 0 and failures >= tonumber(ARGV[4]) then
  state = 'failed'
end
redis.call('HSET', KEYS[1], 'state', state)
redis.call('HDEL', KEYS[1], 'signal')
redis.call('ZREM', KEYS[2], ARGV[1])
event('e', state, 't', ARGV[1], 'a', ARGV[2], 'r', reason, 'y', ARGV[3])
return state
""",
    # Return up to 200 trials whose lease ran out. The caller requeues each, fenced as ever.
    "expired": """
local out = {}
for _, t in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now(), 'LIMIT', 0, 200)) do
  table.insert(out, t)
  table.insert(out, redis.call('HGET', KEYS[1] .. t, 'attempt') or '0')
end
return out
""",
    # ARGV: -, lease (ms). After an outage every lease has run out though its worker may live.
    "extend": """
local until_ = now() + ARGV[2]
for _, t in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  redis.call('ZADD', KEYS[2], 'XX', until_, t)
end
return 0
""",
}
_SOURCES = {name: _NOW + body for name, body in _SCRIPTS.items()}
# `submit` for many: KEYS[1] is what all trials' keys begin with, ARGV[1] a JSON list of the
# arguments of each. As one script each, 100,000 took 6 s.
_SOURCES["submit_all"] = f"""
local function submit(KEYS, ARGV)
{_SCRIPTS["submit"]}
end
local out = {{}}
for i, one in ipairs(cjson.decode(ARGV[1])) do
  out[i] = submit({{KEYS[1] .. one[1]}}, one)
end
return cjson.encode(out)
"""
_SHAS = {name: sha1(source.encode()).hexdigest() for name, source in _SOURCES.items()}

Step = tuple[str, int, Sequence[str | int | float]]


class TrialStates:
    """One study's trials in Redis. Every method is one round trip and safe to repeat."""

    def __init__(self, connection: Redis, study: str) -> None:
        self.connection = connection
        self.keys = Keys(study)

    def submit(
        self,
        trial: int,
        until: int,
        *,
        attempt: int = 0,
        epoch: int = 0,
        checkpoint: str = "",
        failures: int = 0,
    ) -> tuple[str, int]:
        """Make the trial known, or raise its budget; return its state and its last attempt."""
        (answer,) = self.submit_all([(trial, until, attempt, epoch, checkpoint, failures)])
        return answer

    def submit_all(
        self, trials: Sequence[tuple[int, int, int, int, str, int]]
    ) -> list[tuple[str, int]]:
        """Submit trials, each with the arguments of `submit`, in one round trip."""
        if not trials:
            return []
        texts = json.dumps([[str(argument) for argument in one] for one in trials])
        answer = json.loads(self._evaluate("submit_all", [self.keys.prefix], [texts]))
        return [(str(state), int(attempt)) for state, attempt in answer]

    def claim(self, trial: int, attempt: int, worker: str) -> Claim:
        """Take the trial for `worker`, if it waits and this attempt is its next one."""
        (claim,) = self.claim_all([(trial, attempt)], worker)
        return claim

    def claim_all(self, attempts: Sequence[tuple[int, int]], worker: str) -> list[Claim]:
        """Claim (trial, attempt) pairs in one round trip."""
        lease = int(LEASE * 1000)
        answers = self.run(
            [("claim", trial, (number, worker, lease)) for trial, number in attempts]
        )
        return [
            Claim(bool(granted), int(epoch), str(checkpoint), int(until), str(state), int(failures))
            for granted, epoch, checkpoint, until, state, failures in answers
        ]

    def beat(self, trial: int, attempt: int) -> StopReason | None:
        """Renew the lease; return why the attempt must stop, if it must."""
        (answer,) = self.beat_all([(trial, attempt)])
        return answer

    def beat_all(self, attempts: Sequence[tuple[int, int]]) -> list[StopReason | None]:
        """Renew the leases of (trial, attempt) pairs in one round trip."""
        lease = int(LEASE * 1000)
        answers = self.run([("beat", trial, (number, lease)) for trial, number in attempts])
        return [StopReason.of(answer) for answer in answers]

    def signal(self, trial: int, stop: StopReason, reason: str) -> tuple[str, str, int]:
        """Ask a running trial to stop (a waiting one is killed here and now).

        Returns its state before, its worker and its attempt.
        """
        (answer,) = self.run([("signal", trial, (stop, reason))])
        return str(answer[0]), str(answer[1]), int(answer[2])

    def requeue(
        self, trial: int, attempt: int, outcome: Outcome, *, max_failures: int, reason: str = ""
    ) -> str:
        """End an attempt without a result; return the trial's new state, or "fenced"."""
        (answer,) = self.run([("requeue", trial, (attempt, outcome, max_failures, reason))])
        return str(answer)

    def running(self) -> list[int]:
        """Return the trials that run, as Redis has it."""
        members: Any = self.connection.zrange(self.keys.running, 0, -1)
        return [int(one) for one in members]

    def expired(self) -> list[tuple[int, int]]:
        """Return (trial, attempt) of every running trial whose lease ran out."""
        script_keys = [self.keys.prefix, self.keys.running, self.keys.events]
        flat = self._evaluate("expired", script_keys, ["-"])
        return [(int(t), int(a)) for t, a in zip(flat[::2], flat[1::2], strict=True)]

    def extend_leases(self) -> None:
        """Give every running trial a fresh lease (after an outage, before anything is reaped)."""
        script_keys = [self.keys.prefix, self.keys.running, self.keys.events]
        self._evaluate("extend", script_keys, ["-", int(LEASE * 1000)])

    def run(self, steps: Sequence[Step]) -> list[Any]:
        """Run scripts in one round trip; each is (script, trial, further arguments)."""
        from redis.exceptions import NoScriptError

        for _ in range(2):
            pipe = self.connection.pipeline(transaction=False)
            for name, trial, arguments in steps:
                pipe.evalsha(
                    _SHAS[name],
                    3,
                    self.keys.trial(trial),
                    self.keys.running,
                    self.keys.events,
                    *(str(argument) for argument in (trial, *arguments)),
                )
            try:
                return list(pipe.execute())
            except NoScriptError:  # a fresh or flushed server; every script may be repeated
                self._load()
        raise RuntimeError("Redis does not keep scripts")  # pragma: no cover

    def _evaluate(self, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        texts = [str(argument) for argument in arguments]
        return self.connection.eval(_SOURCES[name], len(keys), *keys, *texts)

    def _load(self) -> None:
        for source in _SOURCES.values():
            self.connection.script_load(source)


def settlement(trial: int, state: str) -> Step:
    """Return the step that makes good an end that Redis has lost."""
    return ("settle", trial, (state,))


def report(
    trial: int, attempt: int, epoch: int, metrics: Mapping[str, float], checkpoint: str
) -> Step:
    """Return the step that reports an epoch; its answer is for `StopReason.of`."""
    text = json.dumps(metrics, separators=(",", ":"))
    return ("report", trial, (attempt, epoch, text, checkpoint, int(LEASE * 1000)))


def finish(trial: int, attempt: int, state: str, reason: str = "", *, early: bool = False) -> Step:
    """Return the step that ends an attempt; its answer is the trial's state, or "fenced".

    `early` says that it is complete though it has not trained for all of its budget.
    """
    return ("finish", trial, (attempt, state, reason, int(early)))
