"""What a child does with a job: read it, claim its trial, train it alone or in a pack of lanes."""

from __future__ import annotations

from typing import Any

from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.signing import SECRET_VARIABLE
from scattershot_common.bus.trial_spec import QueuedAttempt
from scattershot_common.errors import ScattershotError
from scattershot_common.seeds import derive
from scattershot_common.task.task import Data, Task
from scattershot_worker.attempt.attempt import Attempt, StopSignal
from scattershot_worker.attempt.lifecycle import WorkerContext, claim, conclude, refuse
from scattershot_worker.attempt.task_loader import TrainFunction
from scattershot_worker.child.pack import Pack, Supervisor
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.child.recruiter import Recruiter
from scattershot_worker.child.shared_state import SharedState, listed
from scattershot_worker.engine.engine import Signature
from scattershot_worker.engine.solo import SoloEngine
from scattershot_worker.fused import FusedEngine, Plan, probe
from scattershot_worker.training.data import data_on
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, make_training


def serve(
    context: WorkerContext,
    pack_cache: PackCache,
    supervisor: Supervisor,
    job: QueuedAttempt,
    signals: StopSignal,
) -> bool:
    """Train the attempt of a job, and what joins it; tell `supervisor` how each went.

    Returns whether the child can train the next one: not where the trial has left something
    behind that cannot be put back.
    """
    spec, number, key = job.spec, job.number, job.key
    try:
        if not job.is_authentic():
            raise ScattershotError(f"its signature is not of this worker's {SECRET_VARIABLE}")
        attempt = claim(context, spec, number, signals, supervisor.began)
    except ScattershotError as error:
        supervisor.ended(key, *refuse(context, spec, number, str(error)))
        return True
    if not isinstance(attempt, Attempt):
        supervisor.ended(key, *attempt)
        return True
    shared: SharedState | None = None
    try:
        task, shared = pack_cache.load(attempt.info.task, attempt.info.data, context.device)
        if isinstance(task, Task):
            pack = open_pack(context, pack_cache, supervisor, attempt, task, shared)
        else:
            pack = None
            _run_train_function(context, attempt, task)
    except BaseException as error:  # TrialStopped, or whatever a user's code raises
        supervisor.ended(key, *conclude(context.reporter, attempt, error))
    else:
        if pack is not None:
            pack.run()
        else:
            supervisor.ended(key, *conclude(context.reporter, attempt))
    return shared is None or _put_back(pack_cache, attempt.info.task, shared)


def _put_back(pack_cache: PackCache, task: str, shared: SharedState) -> bool:
    """Put back what a trial has changed of what trials share; return whether that is possible."""
    if kept := shared.accept_data():
        pack_cache.log_once(
            f"{task}: trials that follow in this process find {listed(kept)} as it was loaded: it "
            "must not depend on hyperparameters"
        )
    changes = shared.changes()
    if not changes:
        return True
    lost = shared.restore()
    pack_cache.log_once(
        f"{task}: a trial changes {listed(changes)}, which the trials after it would find: "
        + (
            f"the process is replaced, as {listed(lost)} cannot be put back"
            if lost
            else "put back after each"
        )
    )
    return not lost


def _run_train_function(context: WorkerContext, attempt: Attempt, train: TrainFunction) -> None:
    """Run a train function, which has a training loop of its own, to its end.

    Raises:
        ScattershotError: it returned before its last epoch.
        TrialStopped: the trial must stop.
        BaseException: whatever the function raises.
    """
    trial = context.handle(attempt)
    seed = derive(trial.seed, "init")
    seed_everything(seed)
    OwnGenerators.of_task().seed(seed)
    train(trial)
    if trial.done < attempt.claim.until and not attempt.early:
        raise ScattershotError(
            f"the train function returned after {trial.done} of {attempt.claim.until} epochs; "
            "loop over trial.epochs(...) to its end"
        )


def open_pack(
    context: WorkerContext,
    pack_cache: PackCache,
    supervisor: Supervisor,
    attempt: Attempt,
    task: Task,
    shared: SharedState,
) -> Pack[Any]:
    """Return a pack with a claimed trial in it: of lanes where that is faster, else alone.

    Raises what the user's task does while its data and model are made.
    """
    info, spec, device = attempt.info, attempt.spec, context.device
    data = data_on(task, device)
    training, changes = shared.watch(lambda: make_training(task, data, spec, device))
    choice: tuple[Signature, Plan] | None = None
    if changes:
        pack_cache.log_once(
            f"trained alone: its model() changes {listed(changes)}, which lanes would share; loss, "
            "metrics, predictions and augment are given the hyperparameters if they take params"
        )
    else:
        choice = _plan_lanes(context, pack_cache, attempt, task, data, training)
        shared.restore()
        if choice is None:
            # made anew: a look at a model that cannot be a lane may have changed it; deleted first,
            # so that a large model has the memory of the device to itself
            del training
            training = make_training(task, data, spec, device)
    supervisor.wants(1 if choice is None else choice[1].lanes)
    pack: Pack[Any]
    if choice is None:
        pack = Pack(context, supervisor, info, task, data, SoloEngine(task, data))
    else:
        signature, plan = choice
        engine = pack_cache.engine(
            signature, lambda: FusedEngine(task, data, signature, plan.programs)
        )
        recruiter = Recruiter(
            context, pack_cache, info, task, data, signature, plan, shared, supervisor.claimed
        )
        pack = Pack(context, supervisor, info, task, data, engine, recruiter)
        pack.closed = attempt.last_chance  # it may bring the process down, with all its lanes
    pack.admit(attempt, training)
    return pack


def _plan_lanes(
    context: WorkerContext,
    pack_cache: PackCache,
    attempt: Attempt,
    task: Task,
    data: Data,
    training: Training,
) -> tuple[Signature, Plan] | None:
    """Return the signature of a trial and the plan for lanes of it, or None to train it alone.

    The study's first worker that trains a signature settles the choice for all.
    """
    try:
        signature = probe(task, training, data)
    except Exception as reason:  # NotFusable, or an error that the training alone reports
        pack_cache.log_once(f"trained alone: {reason}")
        return None
    signatures = Signatures(context.connection, attempt.spec.study)
    known = signatures.mode(signature.key)
    check = attempt.signals.check
    plan = pack_cache.tuner.plan(task, training, data, signature, known, check)
    mode = known or signatures.settle(signature.key, plan.kind, plan.reason)
    if mode == "alone":
        pack_cache.log_once(f"trained alone: {plan.reason}")
        return None
    return signature, plan
