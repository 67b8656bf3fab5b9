"""Owns how the trials of one kind are trained, alone or fused: settled once for a whole study.

Fused trials give the same numbers whatever lanes are beside them, and trials trained alone give
the same numbers on every worker; but the two agree to rounding only. So the first worker that
meets a signature decides for all, and the master keeps it in its ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from scattershot_common.bus import lua_scripts
from scattershot_common.bus.keys import Keys

if TYPE_CHECKING:
    from redis import Redis

Kind = Literal["alone", "fused"]


def settled(connection: Redis, study: str, signature: str) -> Kind | None:
    """Return how trials of this signature are trained, if it is settled."""
    return cast(Kind | None, connection.hget(Keys(study).kinds, signature))


def settle(connection: Redis, study: str, signature: str, kind: Kind, reason: str) -> Kind:
    """Settle a signature, unless another worker has; return what holds. Safe to repeat."""
    keys = Keys(study)
    script_keys = [keys.kinds, keys.events]
    answer = lua_scripts.run(connection, "choose_kind", script_keys, [signature, kind, reason])
    return cast(Kind, answer)


def restore(connection: Redis, study: str, kinds: Mapping[str, Kind]) -> None:
    """Let Redis know what the ledger does."""
    if kinds:
        texts: dict[Any, Any] = dict(kinds)
        connection.hset(Keys(study).kinds, mapping=texts)
