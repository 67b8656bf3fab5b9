"""The state of every trial in Redis: a hash that only the Lua scripts may change.

Each script is one atomic step, fenced by the attempt number, so that a worker that was stopped
past its lease and wakes up can change nothing. Leases use Redis' own clock, never a machine's.
Every change that the master must learn of is written to the study's stream by the same script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scattershot_common.bus import lua_scripts
from scattershot_common.bus.keys import Keys
from scattershot_common.bus.outcome import Outcome, StopReason

if TYPE_CHECKING:
    from redis import Redis

#: Seconds a running trial belongs to its worker without a heartbeat.
LEASE = 12.0
_LEASE_MS = int(LEASE * 1000)

#: A script to run on a trial: its name, the trial, and its arguments after the trial's number.
Step = tuple[str, int, Sequence[str | int | float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: the epoch to resume after (0: from the start), and the budget.

    `failures` is how many attempts before this one have failed.
    """

    granted: bool
    epoch: int = 0
    checkpoint: str = ""
    until: int = 0
    state: str = ""
    failures: int = 0


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
        texts = json.dumps([[str(argument) for argument in trial] for trial in trials])
        answer = lua_scripts.run(self.connection, "submit", [self.keys.prefix], [texts])
        return [(str(state), int(attempt)) for state, attempt in json.loads(answer)]

    def claim(self, trial: int, attempt: int, worker: str) -> Claim:
        """Take the trial for `worker`, if it waits and this attempt is its next one."""
        (claim,) = self.claim_all([(trial, attempt)], worker)
        return claim

    def claim_all(self, attempts: Sequence[tuple[int, int]], worker: str) -> list[Claim]:
        """Claim (trial, attempt) pairs in one round trip."""
        answers = self.run(
            [("claim", trial, (attempt, worker, _LEASE_MS)) for trial, attempt in attempts]
        )
        return [
            Claim(bool(granted), int(epoch), str(checkpoint), int(until), str(state), int(failures))
            for granted, epoch, checkpoint, until, state, failures in answers
        ]

    def renew(self, trial: int, attempt: int) -> StopReason | None:
        """Renew the lease; return why the attempt must stop, if it must."""
        (answer,) = self.renew_all([(trial, attempt)])
        return answer

    def renew_all(self, attempts: Sequence[tuple[int, int]]) -> list[StopReason | None]:
        """Renew the leases of (trial, attempt) pairs in one round trip."""
        answers = self.run([renewal(trial, attempt) for trial, attempt in attempts])
        return [StopReason.of(answer) for answer in answers]

    def signal(self, trial: int, stop: StopReason, reason: str) -> tuple[str, str, int]:
        """Ask a running trial to stop (KILL or HOLD; a KILL ends a waiting one here and now).

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
        return [int(trial) for trial in members]

    def expired(self) -> list[tuple[int, int]]:
        """Return (trial, attempt) of every running trial whose lease ran out."""
        keys = [self.keys.prefix, self.keys.running]
        flat = lua_scripts.run(self.connection, "expired", keys, [])
        return [
            (int(trial), int(attempt)) for trial, attempt in zip(flat[::2], flat[1::2], strict=True)
        ]

    def extend_leases(self) -> None:
        """Give every running trial a fresh lease (after an outage, before anything is reaped)."""
        keys = [self.keys.prefix, self.keys.running]
        lua_scripts.run(self.connection, "extend", keys, [_LEASE_MS])

    def run(self, steps: Sequence[Step]) -> list[Any]:
        """Run scripts in one round trip; return their answers."""
        return lua_scripts.run_all(
            self.connection,
            [
                (
                    name,
                    (self.keys.trial(trial), self.keys.running, self.keys.events),
                    (trial, *arguments),
                )
                for name, trial, arguments in steps
            ],
        )


def renewal(trial: int, attempt: int) -> Step:
    """Return the step that renews a lease; its answer is for `StopReason.of`."""
    return ("renew", trial, (attempt, _LEASE_MS))


def report(
    trial: int, attempt: int, epoch: int, metrics: Mapping[str, float], checkpoint: str
) -> Step:
    """Return the step that reports an epoch; its answer is for `StopReason.of`."""
    text = json.dumps(metrics, separators=(",", ":"))
    return ("report", trial, (attempt, epoch, text, checkpoint, _LEASE_MS))


def finish(trial: int, attempt: int, state: str, reason: str = "", *, early: bool = False) -> Step:
    """Return the step that ends an attempt; its answer is the trial's state, or "fenced".

    `early` says that it is complete though it has not trained for all of its budget.
    """
    return ("finish", trial, (attempt, state, reason, int(early)))


def settlement(trial: int, state: str) -> Step:
    """Return the step that makes good an end that Redis has lost."""
    return ("settle", trial, (state,))
