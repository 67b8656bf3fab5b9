"""Runs a train function, which has a training loop of its own, on a claimed trial."""

from __future__ import annotations

from scattershot_common.errors import ScattershotError
from scattershot_common.seeds import derive
from scattershot_worker.attempt.attempt import Attempt
from scattershot_worker.attempt.lifecycle import WorkerContext
from scattershot_worker.attempt.task_loader import TrainFunction
from scattershot_worker.training.seeding import seed_everything


def run_train_function(context: WorkerContext, attempt: Attempt, train: TrainFunction) -> None:
    """Run a train function to its end.

    Raises:
        ScattershotError: it returned before its last epoch.
        TrialStopped: the trial must stop.
        Exception: whatever the function raises.
    """
    trial = context.handle(attempt)
    seed_everything(derive(trial.seed, "init"))
    train(trial)
    if trial.done < attempt.claim.until and not attempt.early:
        raise ScattershotError(
            f"the train function returned after {trial.done} of {attempt.claim.until} epochs; "
            "loop over trial.epochs(...) to its end"
        )
