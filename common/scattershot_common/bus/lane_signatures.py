"""What workers agree on for each signature: how its trials are trained, and who trains it now.

Fused trials give the same numbers whatever lanes are beside them, and trials trained alone give
the same numbers on every worker; but the two agree to rounding only. So the first worker that
meets a signature settles it for the whole study, and the master keeps that in its ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from scattershot_common.bus import lua_scripts
from scattershot_common.bus.keys import Keys

if TYPE_CHECKING:
    from redis import Redis

TrainingMode = Literal["alone", "fused"]


class Signatures:
    """The signatures of one study's trials, in Redis."""

    def __init__(self, connection: Redis, study: str) -> None:
        self._connection = connection
        self._keys = Keys(study)

    def mode(self, signature: str) -> TrainingMode | None:
        """Return how trials of this signature are trained, if it is settled."""
        return cast(TrainingMode | None, self._connection.hget(self._keys.kinds, signature))

    def settle(self, signature: str, mode: TrainingMode, reason: str) -> TrainingMode:
        """Settle a signature, unless another worker has; return what holds. Safe to repeat."""
        keys = [self._keys.kinds, self._keys.events]
        answer = lua_scripts.run(
            self._connection, "settle_signature", keys, [signature, mode, reason]
        )
        return cast(TrainingMode, answer)

    def restore(self, modes: Mapping[str, TrainingMode]) -> None:
        """Settle signatures as the ledger has them, after Redis has lost them."""
        if modes:
            self._connection.hset(self._keys.kinds, mapping=dict[Any, Any](modes))

    # Which worker trains a pack of which signature, so that trials of one signature come together.
    # Nothing here decides over a trial. What a dead worker leaves is overwritten by its next pack,
    # and forgotten with the study.

    def join(self, worker: str, signature: str) -> None:
        """Say that a worker trains a pack of this signature."""
        self._connection.hset(self._keys.packs, worker, signature)

    def leave(self, worker: str) -> None:
        """Say that a worker trains no pack any more."""
        self._connection.hdel(self._keys.packs, worker)

    def elsewhere(self, worker: str) -> set[str]:
        """Return the signatures of the packs of all other workers."""
        packs: Any = self._connection.hgetall(self._keys.packs)
        return {signature for name, signature in packs.items() if name != worker}
