"""Owns what a child does with a job: read it, claim its trial, train it alone or in a pack."""

from __future__ import annotations

from typing import Protocol

from scattershot_common.bus import fusion_choice
from scattershot_common.bus.queue import TrialSpec
from scattershot_common.bus.signing import SECRET_VARIABLE, fits, secret
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.errors import ScattershotError
from scattershot_common.task.task import Task
from scattershot_worker.attempt.attempt import (
    ClaimedTrial,
    WorkerContext,
    conclude,
    refuse,
    take,
    train_alone,
)
from scattershot_worker.attempt.stop_signal import StopSignal, TrialStopped
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.child import pack as packs
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.fused import Engine, probe
from scattershot_worker.training.data import data_on
from scattershot_worker.training.training import make_training


class Line(packs.Line, Protocol):
    """What tells the supervisor of what the child does."""

    def began(self, info: StudyInfo) -> None:
        """Tell what study is worked on."""


def serve(
    bench: WorkerContext,
    packing: PackCache,
    line: Line,
    text: str,
    number: int,
    signature: str,
    signals: StopSignal,
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
    if not isinstance(taken, ClaimedTrial):
        line.ended(key, *taken)
        return
    try:
        pack = open_pack(bench, packing, line, taken)
    except (Exception, SystemExit, TrialStopped) as error:
        line.ended(key, *conclude(bench, taken, error))
        return
    if pack is not None:
        pack.run()
    else:
        line.ended(key, *train_alone(bench, taken))


def open_pack(
    bench: WorkerContext, packing: PackCache, line: packs.Line, taken: ClaimedTrial
) -> packs.Pack | None:
    """Return a pack with the claimed trial in it, or None where it is to be trained alone.

    Raises what the user's task does while its data and model are made.
    """
    info, spec = taken.info, taken.spec
    task = load_task(info.task, info.data)
    if not isinstance(task, Task):
        return None  # a train function has a loop of its own
    trial = taken.handle(bench)
    data = data_on(task, bench.device)
    training = make_training(
        task, spec.params, seed=spec.seed, budget=spec.epochs, device=bench.device
    )
    try:
        signature = probe(task, training, data)
    except Exception as no:  # NotFusable, for all that is known; alone, it tells what is wrong
        line.wants(1)
        packing.say_once(f"trained alone: {no}")
        return None
    known = fusion_choice.settled(bench.connection, info.name, signature.key)
    check = taken.attempt.signals.check
    plan = packing.tuner.plan(task, training, data, signature, known, check)
    kind = known or fusion_choice.settle(
        bench.connection, info.name, signature.key, plan.kind, plan.reason
    )
    if kind == "alone":
        line.wants(1)
        packing.say_once(f"trained alone: {plan.reason}")
        return None
    line.wants(plan.lanes)
    engine = packing.engine(signature, lambda: Engine(task, data, signature, plan.programs))
    pack = packs.Pack(bench, packing, line, info, task, engine, plan)
    pack.closed = taken.claim.failures + 1 >= info.max_failures
    pack.admit(taken, trial, training)
    return pack
