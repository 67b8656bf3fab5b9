"""What a child keeps from pack to pack: plans, traced programs, signatures of waiting trials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from scattershot_common.bus.queue import WaitingTrials
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused import FusedEngine, Tuner

log = logging.getLogger("scattershot.worker")

#: Engines without lanes that are kept.
_ENGINES = 4
#: Trials on the queue whose signatures are remembered.
_REMEMBERED = 10_000


@dataclass
class PackCache:
    """What a child keeps from pack to pack."""

    waiting: WaitingTrials
    tuner: Tuner
    #: Engines by signature, the last used last: what they have traced is used again.
    engines: dict[str, FusedEngine] = field(default_factory=dict)
    #: Signatures of trials on the queue, by job; "" for those that must be trained alone.
    known: dict[str, str] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)

    def remember(self, job: str, key: str) -> None:
        """Remember the signature of a waiting trial, so that it is determined once."""
        self.known[job] = key
        while len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def engine(self, signature: Signature, make: Callable[[], FusedEngine]) -> FusedEngine:
        """Return the engine of a signature, making it at first."""
        engine = self.engines.pop(signature.key, None) or make()
        self.engines[signature.key] = engine
        while len(self.engines) > _ENGINES:
            del self.engines[next(iter(self.engines))]
        return engine

    def log_once(self, text: str) -> None:
        """Log what holds for many trials once."""
        if text not in self._logged:
            self._logged.add(text)
            log.info("%s", text)
