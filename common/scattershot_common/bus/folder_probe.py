"""Owns the question to the workers whether they see a folder, and their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scattershot_common.store.shared_folder import look

if TYPE_CHECKING:
    from redis import Redis

#: The command that asks, sent on the channel on which a worker hears of kills as well.
COMMAND = "scattershot-look"
_KEPT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker found: its output root, and what is wrong with it ("" if it is the same)."""

    root: str
    problem: str


def ask(connection: Redis, workers: Iterable[str], nonce: str) -> None:
    """Ask workers to look for a hidden file (`store.shared.hide`) in their output roots."""
    from rq.command import send_command

    for worker in workers:
        send_command(connection, worker, COMMAND, nonce=nonce)


def reply(connection: Redis, worker: str, root: Path, nonce: str) -> None:
    """Look, and answer: the worker's side. May take as long as its file system does."""
    answer = Answer(str(root), look(root, nonce))
    connection.hset(_key(nonce), worker, json.dumps(asdict(answer)))
    connection.expire(_key(nonce), _KEPT_S)


def answers(connection: Redis, nonce: str) -> dict[str, Answer]:
    """Return what the workers have answered so far."""
    found = connection.hgetall(_key(nonce))
    return {str(worker): Answer(**json.loads(text)) for worker, text in found.items()}


def _key(nonce: str) -> str:
    return f"ss:look:{nonce[:64]}"
