"""Trains one trial of a task class by ordinary torch."""

from __future__ import annotations

import time
from contextlib import nullcontext

from scattershot_common.task.task import Task
from scattershot_worker.attempt.trial_handle import TrialHandle
from scattershot_worker.monitors.metrics import machine_usage
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.training.data import data_on
from scattershot_worker.training.evaluation import evaluate, targets_of
from scattershot_worker.training.training import make_training, train_epoch


def train(task: Task, trial: TrialHandle) -> None:
    """Train one trial of `task` to its budget, reporting every epoch.

    Data order, weights and dropout derive from the trial's seed and the epoch alone.
    """
    data = data_on(task, trial.device)
    training = make_training(
        task, trial.params, seed=trial.seed, budget=trial.budget, device=trial.device
    )
    monitor = Monitor(training) if trial.monitors else None
    trial.patience = training.settings.early_stopping
    for epoch in trial.epochs(**training.parts):
        started = time.perf_counter()
        training.begin_epoch(epoch, trial.history)
        loss, examples = train_epoch(training, data.train, trial.check, monitor)
        with nullcontext() if monitor is None else monitor.evaluation():
            evaluation = evaluate(task, training.model, data.val, trial.device, trial.check)
        seen, layers = (
            ({}, None)
            if monitor is None
            else monitor.end_epoch(evaluation.outputs, evaluation.targets)
        )
        averaged = {}
        if (average := training.average) is not None:
            with average.in_place():
                metrics = evaluate(
                    task, training.model, data.val, trial.device, trial.check
                ).metrics
            averaged = {f"val_{name}_{average.name}": value for name, value in metrics.items()}
        trial.report(
            {f"val_{name}": value for name, value in evaluation.metrics.items()},
            train_loss=loss,
            lr=training.lr,
            **averaged,
            **seen,
            **machine_usage(trial.device, examples, time.perf_counter() - started),
            layers=layers,
            predictions=evaluation.predictions,
            targets=targets_of(task, evaluation.targets),
        )
