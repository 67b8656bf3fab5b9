"""The same work done by Optuna: two processes, journal storage, random sampling.

Run as `python -m bench.optuna_side digits POINTS.json FOLDER` or `… noop REDIS_URL TRIALS`; prints
the seconds from the first trial's start to the last one's end.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

_REPORTS = 10


def storage(where: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    redis = where.startswith("redis:")
    backend = JournalRedisBackend(where) if redis else JournalFileBackend(where)
    return optuna.storages.JournalStorage(backend)


def digits(trial: Any) -> float:
    import optuna

    from bench import bare_loop

    point = {
        "lr": trial.suggest_float("lr", 1e-6, 10, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "hidden": trial.suggest_categorical("hidden", [64, 128, 256]),
        "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adamw"]),
        "batch_size": 32,
    }
    if point["optimizer"] == "sgd":
        point["momentum"] = trial.suggest_float("momentum", 0.5, 0.99)

    def each(epoch: int, accuracy: float) -> None:
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    return bare_loop.train(point, trial.number, each)


def noop(trial: Any) -> float:
    import optuna

    x: float = trial.suggest_float("x", 0.0, 1.0)
    for step in range(1, _REPORTS + 1):
        trial.report(0.5 + x * 0.001 * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return 0.5 + x * 0.01


def work(kind: str, where: str, trials: int, barrier: Any) -> None:
    import optuna

    if kind == "digits":
        import torch

        torch.set_num_threads(1)
    study = optuna.load_study(
        study_name="bench",
        storage=storage(where),
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner(),
    )
    barrier.wait()  # both are ready: what is measured is the work, not the imports
    study.optimize({"digits": digits, "noop": noop}[kind], n_trials=trials)


def main() -> None:
    import optuna

    kind, second, third = sys.argv[1:]
    where = second if kind == "noop" else str(Path(third) / "journal.log")
    study = optuna.create_study(study_name="bench", storage=storage(where), direction="maximize")
    if kind == "digits":
        points = json.loads(Path(second).read_text())
        for point in points:
            study.enqueue_trial({key: value for key, value in point.items() if key != "batch_size"})
        count = len(points)
    else:
        count = int(third)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=work, args=(kind, where, count // 2, barrier)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    trials = study.get_trials()
    done: list[Any] = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(done) != count:
        sys.exit(f"Optuna completed {len(done)} trials of {count}")
    first = min(trial.datetime_start for trial in done)
    print((max(trial.datetime_complete for trial in done) - first).total_seconds())


if __name__ == "__main__":
    main()
