"""Owns what a child does with a job: read it, claim its trial, train it alone or in a pack."""

from __future__ import annotations

from typing import Protocol

from scattershot.bus.info import StudyInfo
from scattershot.bus.queue import TrialSpec
from scattershot.bus.signing import SECRET_VARIABLE, fits, secret
from scattershot.errors import ScattershotError
from scattershot_worker import packs
from scattershot_worker.job import Bench, Taken, conclude, refuse, take, train_alone
from scattershot_worker.signals import Signals, TrialStopped


class Line(packs.Line, Protocol):
    """What tells the supervisor of what the child does."""

    def began(self, info: StudyInfo) -> None:
        """Tell what study is worked on."""


def serve(
    bench: Bench,
    packing: packs.Packing,
    line: Line,
    text: str,
    number: int,
    signature: str,
    signals: Signals,
) -> None:
    """Train the attempt that a job names, and what joins it; tell `line` how each went."""
    spec = TrialSpec.from_json(text)
    key = (spec.study, spec.trial, number)
    try:
        if not fits(text, signature, secret()):
            raise ScattershotError(f"its signature is not of this worker's {SECRET_VARIABLE}")
        taken = take(bench, spec, number, signals, line.began)
    except ScattershotError as error:
        line.ended(key, *refuse(bench, spec, number, str(error)))
        return
    if not isinstance(taken, Taken):
        line.ended(key, *taken)
        return
    try:
        pack = packs.open_pack(bench, packing, line, taken)
    except (Exception, SystemExit, TrialStopped) as error:
        line.ended(key, *conclude(bench, taken, error))
        return
    if pack is not None:
        pack.run()
    else:
        line.ended(key, *train_alone(bench, taken))
