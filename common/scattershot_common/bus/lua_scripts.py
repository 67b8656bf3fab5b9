"""The Lua scripts that run inside Redis (`lua/*.lua`), each one atomic step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis


_FOLDER = Path(__file__).parent / "lua"
#: Functions that all scripts share.
_PRELUDE = "prelude.lua"


@cache
def source(name: str) -> str:
    """Return a script's source, with the functions that all share."""
    return (_FOLDER / _PRELUDE).read_text("utf-8") + (_FOLDER / f"{name}.lua").read_text("utf-8")


@cache
def sha(name: str) -> str:
    """Return the name that Redis gives a script."""
    return sha1(source(name).encode()).hexdigest()


def run(
    connection: Redis, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]
) -> Any:
    """Run one script; return its answer."""
    return connection.eval(source(name), len(keys), *keys, *arguments)


def run_all(
    connection: Redis, steps: Sequence[tuple[str, Sequence[str], Sequence[object]]]
) -> list[Any]:
    """Run scripts, each as (name, keys, arguments), in order and in one round trip.

    All are sent again where the server does not know them: each must be safe to repeat.
    """
    from redis.exceptions import NoScriptError

    for _ in range(2):
        pipe = connection.pipeline(transaction=False)
        for name, keys, arguments in steps:
            pipe.evalsha(sha(name), len(keys), *keys, *(str(argument) for argument in arguments))
        try:
            return list(pipe.execute())
        except NoScriptError:  # a fresh or flushed server
            _load_all(connection)
    raise RuntimeError("Redis does not keep scripts")  # pragma: no cover


def _load_all(connection: Redis) -> None:
    # all, always: were only some known, a pipeline would do its later steps without the earlier
    for file in _FOLDER.iterdir():
        if file.name != _PRELUDE:
            connection.script_load(source(file.name.removesuffix(".lua")))
