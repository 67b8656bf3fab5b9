"""Owns what a child keeps from pack to pack: plans, traced programs, what it knows of the queue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from scattershot_common.bus.queue_scan import WaitingTrials
from scattershot_worker.fused import Engine, Signature, Tuner

log = logging.getLogger("scattershot.worker")

#: Engines that are kept though no lane is in them.
_ENGINES = 4
#: Trials on the queue whose signatures are remembered.
_REMEMBERED = 10_000


@dataclass
class PackCache:
    """What a child keeps from pack to pack."""

    waiting: WaitingTrials
    tuner: Tuner
    #: Engines by signature, the last used last: what they have traced is used again.
    engines: dict[str, Engine] = field(default_factory=dict)
    #: Signatures of trials on the queue, by job; "" for those that must be trained alone.
    known: dict[str, str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def remember(self, job: str, key: str) -> None:
        """Remember the signature of a trial that waits, so that it is looked into once."""
        self.known[job] = key
        while len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def engine(self, signature: Signature, make: Callable[[], Engine]) -> Engine:
        """Return the engine of a signature, making it at first."""
        engine = self.engines.pop(signature.key, None) or make()
        self.engines[signature.key] = engine
        while len(self.engines) > _ENGINES:
            del self.engines[next(iter(self.engines))]
        return engine

    def say_once(self, text: str) -> None:
        """Log what would otherwise be said of every trial."""
        if text not in self._said:
            self._said.add(text)
            log.info("%s", text)
