"""A simulated study: the events that a master would write, with plausible learning curves."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from scattershot_common.seeds import derive
from scattershot_common.space.space import Box
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.study.settings import StudyFile
from scattershot_common.trial import Value
from scattershot_master.samplers import SAMPLERS
from scattershot_master.search.refine import refine, select_continue
from scattershot_master.state import events
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState, TrialRecord

SPACE: dict[str, object] = {
    "lr": {"loguniform": [1e-6, 10]},
    "weight_decay": {"loguniform": [1e-6, 1e-1]},
    "dropout": {"uniform": [0.0, 0.6]},
    "hidden": {"choice": [64, 128, 256]},
    "optimizer": {"choice": ["sgd", "adamw"]},
    "momentum": {"uniform": [0.5, 0.99], "when": {"optimizer": "sgd"}},
    "batch_size": 32,
}
STAGES: tuple[dict[str, object], ...] = (
    {"name": "coarse", "trials": 48, "epochs": 2},
    {"name": "fine", "trials": 24, "epochs": 8, "refine": 0.25},
    {"name": "final", "continue": 5, "epochs": 30},
)
BEGUN = 1_700_000_000.0


def event(name: str, **fields: Any) -> events.LedgerEvent:
    """Return an event by its name and its keys in the ledger."""
    return events.read({"e": name, **fields})


class Simulation:
    """A study run by `workers` that train an epoch in `seconds`; `state` is how far it is."""

    def __init__(
        self,
        stages: Sequence[dict[str, object]] = STAGES,
        *,
        workers: int = 2,
        seconds: float = 0.25,
        rule: str = "median",
        name: str = "digits",
    ) -> None:
        self.study: Any = StudyFile.model_validate(
            {
                "study": {"name": name, "task": "digits"},
                "space": SPACE,
                "stage": list(stages),
                "kill": {"rule": rule},
            }
        )
        self.state = StudyState()
        self.now = BEGUN
        self._step = seconds / workers
        self._workers = [f"host-{index}-{4000 + index}" for index in range(workers)]

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield every event of the study, and apply it to `state`."""
        for kind, fields in self._run():
            line = {"e": kind, **fields, **({} if kind == "report" else {"at": self.now})}
            self.state.apply(events.read(line))
            yield line

    def run(self, limit: float = math.inf, *, to: Ledger | None = None) -> StudyState:
        """Go on until the study ends, or `limit` events have come; write them `to` a ledger."""
        for count, line in enumerate(self.events(), 1):
            if to is not None:
                to.append(events.read(line))
            if count >= limit:
                break
        return self.state

    def _run(self) -> Iterator[tuple[str, dict[str, Any]]]:
        dump = self.study.model_dump(mode="json", by_alias=True)
        yield "study", {"study": dump, "uid": "0f3a"}
        for index, stage in enumerate(self.study.stages):
            box, notes, carried = self.study.space.whole(), (), []
            ranking = finite(self.state)
            if stage.refine:
                params = [trial.params for trial in ranking]
                box, notes = self._refine(params, stage.refine)
            if stage.continue_:
                complete = [trial.number for trial in ranking if trial.state == "complete"]
                carried = select_continue(complete, stage.continue_)
            yield (
                "stage",
                {
                    "stage": stage.name,
                    "index": index,
                    "target": stage.trials or len(carried),
                    "trials": carried,
                    "box": None if carried else box.to_json(),
                    "notes": list(notes),
                    "epochs": stage.epochs,
                    "until": [stage.epochs] * len(carried),
                },
            )
            yield from self._train(stage, box, carried)
            yield "closed", {"index": index}
        yield "ensemble", {"ensemble": self._ensemble()}
        yield "finished", {}

    def _refine(self, params: Sequence[dict[str, Value]], part: float) -> tuple[Box, Any]:
        narrowing = refine(self.study.space, self.study.space.whole(), params, part)
        return narrowing.box, narrowing.notes

    def _train(self, stage: Any, box: Box, carried: list[int]) -> Iterator[tuple[str, Any]]:
        waiting = list(carried)
        if not carried:
            for count in range(stage.trials):
                number = len(self.state.trials)
                (point,) = SAMPLERS["random"](0, stage.name, box).ask(count, 1)
                params = self.study.space.at(box.at(point))
                budget = {"epochs": stage.epochs, "until": stage.epochs}
                yield "sampled", {"t": number, "p": params, **budget}
                waiting.append(number)
        busy: dict[str, int] = {}
        while waiting or busy:
            for worker in self._workers:
                self.now += self._step
                if worker not in busy and waiting:
                    number = busy[worker] = waiting.pop(0)
                    attempt = self.state.trials[number].attempts + 1
                    yield "started", {"t": number, "a": attempt, "w": worker, "c": self._cursor()}
                elif worker in busy:
                    record = self.state.trials[busy[worker]]
                    yield from self._epoch(record)
                    if not record.living:
                        del busy[worker]

    def _epoch(self, trial: TrialRecord) -> Iterator[tuple[str, Any]]:
        a = {"t": trial.number, "a": trial.attempts, "c": self._cursor()}
        if trial.number % 41 == 17:
            reason = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (tasks.py:41)"
            yield "failed", {**a, "r": reason}
            return
        epoch = trial.done + 1
        metrics = curve(trial.params, epoch, trial.seed)
        value = metrics["val_accuracy"]
        name = ""
        if math.isfinite(value):
            name = checkpoint_name("val_accuracy", value, trial.number, epoch)
        yield "report", {**a, "n": epoch, "m": metrics, "f": name}
        if epoch == trial.epochs:
            yield "complete", a
        elif self.study.kill.rule and not value > 0.3:
            reason = f"median rule: best {value:.6g} by epoch {epoch} is worse than 0.3"
            yield "kill", {"t": trial.number, "r": reason}
            yield "killed", a

    def _ensemble(self) -> dict[str, Any]:
        best = finite(self.state)[:3]
        return {
            "members": [
                {
                    "trial": trial.number,
                    "weight": 3 - place,
                    "epoch": trial.best_epoch,
                    "checkpoint": trial.best_checkpoint,
                    "value": trial.best_value,
                    "gain": 0.004 - 0.0015 * place,
                }
                for place, trial in enumerate(best)
            ],
            "method": "greedy",
            "score_name": "accuracy",
            "validation": {"best_single": best[0].best_value, "ensemble": 0.9861},
            "test": {
                "best_single": 0.9694,
                "ensemble": 0.9778,
                "best_single_trial": best[0].number,
            },
            "note": "",
        }

    def _cursor(self) -> str:
        return f"{int(self.now * 1000)}-0"


def curve(params: dict[str, Value], epoch: int, seed: int) -> dict[str, float]:
    """Return the metrics of an epoch: best at lr 0.1, the smaller the decay the better."""
    lr, decay, dropout = (float(params[name]) for name in ("lr", "weight_decay", "dropout"))
    if lr > 4:
        return {"val_accuracy": math.nan, "val_loss": math.nan, "train_loss": math.nan}
    noise = random.Random(derive(seed, "noise", epoch)).gauss(0, 0.01)
    fit = math.exp(-(((math.log10(lr) + 1) / 2) ** 2)) - 0.1 * (math.log10(decay) + 6)
    value = 0.1 + 0.88 * max(fit - 0.2 * dropout, 0) * (1 - math.exp(-epoch / 1.5)) + noise
    value = min(max(value, 0.0), 0.99)
    return {"val_accuracy": value, "val_loss": 2.3 * (1 - value), "train_loss": 2.2 * (1 - value)}
