"""Which checkpoints a search deletes from a folder, and which it keeps."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.store.local import LocalStore
from scattershot_common.study.settings import StudyFile
from scattershot_master.search import search
from scattershot_master.search.checkpoint_cleanup import CheckpointCleanup
from scattershot_master.state import events
from scattershot_master.state.ledger import LEDGER
from scattershot_master.state.study_state import StudyState
from support.checkpoints import list_checkpoints, trial_folder
from support.pretend_master import STAGES, Master, Watcher, study_file
from support.pretend_worker import Metrics, Params, PretendWorkers, curve
from support.synthetic_study import event

NAME = "pretended"
STUDY = study_file(checkpoints={"keep": 3})


@pytest.fixture(autouse=True)
def _quick_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.02)


def best(values: dict[int, float], count: int) -> set[int]:
    """Return the `count` trials of the largest finite values, ties by number."""
    finite = [number for number, value in values.items() if math.isfinite(value)]
    return set(sorted(finite, key=lambda number: (-values[number], number))[:count])


def kept(path: Path, study: StudyFile, pinned: Iterable[int] = ()) -> set[int]:
    """Return the ended trials whose files must be there: the rule, from the ledger's start on."""
    state, known, gone = StudyState(), dict[int, float](), set[int]()
    for line in path.read_text().splitlines():
        state.apply(events.read(json.loads(line)))
        for trial in state.trials.values():
            if not trial.living:
                known[trial.number] = trial.best_value
        keep = best(known, study.checkpoints.keep) | set(pinned)
        for stage in study.stages[len(state.stages) :]:
            complete = {number: known[number] for number in state.by_state["complete"]}
            keep |= best(complete, stage.continue_ or 0)
        gone |= {number for number in known if number not in keep}
        gone -= {trial.number for trial in state.trials.values() if trial.living}
    return {number for number in known if not state.trials[number].living} - gone


def on_disk(state: StudyState, folder: Path) -> set[int]:
    """Return the ended trials that have files; best and last must be, and one more may."""
    found = set()
    for trial in state.trials.values():
        names = {path.name for path in list_checkpoints(folder, trial.number)}
        if names and not trial.living:
            assert names >= {trial.best_checkpoint, trial.checkpoint} and len(names) <= 3
            found.add(trial.number)
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rule", ["sync_halving", "none"])
@pytest.mark.parametrize("keep", [1, 3, 99])
def test_what_stays_is_the_best_the_living_and_who_may_go_on(
    redis_url: str, tmp_path: Path, keep: int, rule: str, seed: int
) -> None:
    study = study_file(checkpoints={"keep": keep}, kill={"rule": rule})
    looks: list[set[int]] = []

    def look(state: StudyState) -> None:
        master.ledger.commit()
        looks.append(on_disk(state, tmp_path / NAME))
        assert looks[-1] == kept(tmp_path / NAME / LEDGER, study)

    with PretendWorkers(redis_url, 3, seed=seed, folder=tmp_path):
        master = Master(redis_url, tmp_path, study, Watcher(look))
        assert master.run()
    values = {trial.number: trial.best_value for trial in master.state.trials.values()}
    assert looks[-1] == best(values, keep)
    if keep == 1:  # those who may go on stayed, too
        assert max(map(len, looks)) > 1
    folders = {int(path.name) for path in (tmp_path / NAME / "trials").iterdir()}
    assert folders == looks[-1]


def test_a_master_that_takes_up_a_study_keeps_the_same(redis_url: str, tmp_path: Path) -> None:
    limits = [3, 11, 17, 25, 32, 39, math.inf]  # of 43 epochs

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= limits[0] else ""

    def look(state: StudyState) -> None:
        master.ledger.commit()
        # a new master knows what living trials have reached, and lets others go for them at once
        assert on_disk(state, tmp_path / NAME) <= kept(tmp_path / NAME / LEDGER, STUDY)
        if sum(trial.done for trial in state.trials.values()) >= limits[0]:
            master.search.stopping = True

    with PretendWorkers(redis_url, 3, seed=0, fault=fault, folder=tmp_path) as workers:
        while len(limits) > 1:
            master = Master(redis_url, tmp_path, STUDY, Watcher(look))
            assert not master.run()
            del limits[0]
        master = Master(redis_url, tmp_path, STUDY, Watcher(look))
        assert master.run()
    values = {trial.number: trial.best_value for trial in master.state.trials.values()}
    assert on_disk(master.state, tmp_path / NAME) == best(values, 3)


def test_who_could_go_on_but_did_not_is_let_go(redis_url: str, tmp_path: Path) -> None:
    stages = [
        {"name": "coarse", "trials": 6, "epochs": 2},
        {"name": "longer", "continue": 4, "epochs": 3},
        {"name": "final", "continue": 1, "epochs": 4},
    ]
    study = study_file(stage=stages, kill={"rule": "none"}, checkpoints={"keep": 2})
    with PretendWorkers(redis_url, 2, folder=tmp_path):
        master = Master(redis_url, tmp_path, study)
        assert master.run()
    values = {trial.number: trial.best_value for trial in master.state.trials.values()}
    assert on_disk(master.state, tmp_path / NAME) == best(values, 2)


def test_trials_without_a_value_leave_nothing_but_their_traceback(
    redis_url: str, tmp_path: Path
) -> None:
    def bent(params: Params, seed: int, epoch: int) -> Metrics:
        return dict.fromkeys(curve(params, seed, epoch), math.nan)

    def fault(trial: int, attempt: int, epoch: int) -> str:
        folder = trial_folder(tmp_path / NAME, trial)
        if (trial, epoch) == (2, 1):
            folder.mkdir(parents=True)
            (folder / "error.txt").write_text("Traceback")
            (folder / checkpoint_name("val_accuracy", 0.5, 2, 1)).touch()
            return "fail: ValueError: no"
        return ""

    study = study_file(stage=[STAGES[0]], kill={"rule": "none"})
    with PretendWorkers(redis_url, 2, curve=bent, fault=fault, folder=tmp_path):
        assert Master(redis_url, tmp_path, study).run()
    left = [path for path in (tmp_path / NAME / "trials").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["error.txt"]


# ---- by hand


class Room:
    """A state and its files, changed by hand."""

    def __init__(self, folder: Path, **tables: Any) -> None:
        self.folder = folder
        self.study = study_file(**tables)
        self.state = StudyState()
        dumped = self.study.model_dump(mode="json", by_alias=True)
        self.apply("study", study=dumped, uid="u")
        self.apply("stage", stage="coarse", index=0, target=99, box=[])

    def apply(self, kind: str, **fields: Any) -> None:
        self.state.apply(event(kind, at=1.0, **fields))

    def train(self, number: int, value: float, end: str = "complete") -> None:
        name = checkpoint_name("val_accuracy", value, number, 1)
        path = trial_folder(self.folder, number) / name
        path.parent.mkdir(parents=True)
        path.touch()
        self.apply("sampled", t=number, p={}, epochs=4, until=4)
        self.apply("started", t=number, a=1, w="w")
        metrics = {"val_accuracy": value}
        self.apply("report", t=number, a=1, n=1, m=metrics, f=name)
        if end:
            self.apply(end, t=number, a=1)

    def there(self) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / "trials").iterdir())


ONE_STAGE: dict[str, Any] = {"stage": [STAGES[0]], "checkpoints": {"keep": 2}}


def test_ensemble_members_stay_whatever_becomes_of_them(tmp_path: Path) -> None:
    room = Room(tmp_path, **ONE_STAGE)
    for number, value in enumerate([0.1, 0.2, 0.9, 0.8, 0.3]):
        room.train(number, value)
    room.apply("ensemble", ensemble={"members": [{"trial": 0}, {"trial": 2}]})
    keeping = CheckpointCleanup(room.state, LocalStore(tmp_path))
    assert room.there() == [0, 2, 3]
    keeping.pin([6])
    for number, value in ((5, 0.95), (6, 0.4), (7, 0.99)):
        room.train(number, value)
        keeping.ended(room.state.trials[number])
    assert room.there() == [0, 2, 5, 6, 7]


def test_the_smallest_stay_where_the_goal_is_to_minimize(tmp_path: Path) -> None:
    study = {"name": "small", "task": "digits", "goal": "minimize"}
    room = Room(tmp_path, study=study, **ONE_STAGE)
    keeping = CheckpointCleanup(room.state, LocalStore(tmp_path))
    for number, value in enumerate([0.5, 0.1, 0.9, 0.2, 0.2]):
        room.train(number, value)
        keeping.ended(room.state.trials[number])
    assert room.there() == [1, 3]


@pytest.mark.parametrize("error", [CheckpointError("no"), PermissionError("no")])
def test_a_file_that_cannot_be_removed_does_not_stop_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(store: LocalStore, keys: Iterable[str]) -> None:
        raise error

    monkeypatch.setattr(LocalStore, "delete", refuse)
    room = Room(tmp_path, **ONE_STAGE)
    keeping = CheckpointCleanup(room.state, LocalStore(tmp_path))
    for number, value in enumerate([0.1, 0.2, 0.9]):
        room.train(number, value)
        keeping.ended(room.state.trials[number])
    assert room.there() == [0, 1, 2]


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_only_complete_trials_wait_for_a_stage_that_continues(tmp_path: Path, end: str) -> None:
    room = Room(tmp_path, stage=[STAGES[0], STAGES[2]], checkpoints={"keep": 1})
    keeping = CheckpointCleanup(room.state, LocalStore(tmp_path))
    ends: list[Callable[[int], str]] = [lambda number: end, lambda number: "complete"]
    for number, value in enumerate([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4]):
        room.train(number, value, ends[number % 2](number))
        keeping.ended(room.state.trials[number])
    assert room.there() == [0, 3, 5, 7]
    stage = {"stage": "final", "index": 1, "epochs": 8, "trials": [7, 5], "until": [8, 8]}
    room.apply("stage", target=2, **stage)
    for number in (7, 5):
        keeping.active(room.state.trials[number])
    keeping.stage_opened()
    assert room.there() == [0, 5, 7]
