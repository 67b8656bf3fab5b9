"""Events that another program writes to the study's stream are skipped."""

import json
from pathlib import Path

import pytest

from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys
from scattershot_common.store.checkpoint_names import checkpoint_name, is_checkpoint_of
from scattershot_master.state.ledger import LEDGER
from scattershot_master.state.study_state import StudyState
from support.pretend_master import Master, Watcher, study_file, table
from support.pretend_worker import PretendWorkers

STUDY = study_file(stage=[{"name": "only", "trials": 6, "epochs": 3}])
NAME = STUDY.study.name


def run(url: str, root: Path, *foreign: dict[str, str]) -> Master:
    """Run the study while `foreign` events arrive in its stream; return its master."""
    written = False

    def look(state: StudyState) -> None:
        nonlocal written
        if not written and state.by_state["running"]:
            for fields in foreign:
                connect(url).xadd(Keys(NAME).events, fields)  # type: ignore[arg-type]
            written = True

    with PretendWorkers(url, 2, fault=lambda *_: "" if written or not foreign else "wait"):
        master = Master(url, root, STUDY, Watcher(look))
        assert master.run()
    return master


def test_events_that_only_a_master_writes_are_passed_over(redis_url: str, tmp_path: Path) -> None:
    expected = table(run(redis_url, tmp_path / "undisturbed").state)
    connect(redis_url).flushdb()
    kinds = ("finished", "study", "stage", "settled", "sampled", "ensemble", "kill", "nonsense")
    foreign = [{"e": kind, "t": "0", "a": "1"} for kind in kinds]
    master = run(redis_url, tmp_path / "disturbed", *foreign, {"e": "report", "t": "999"})
    assert table(master.state) == expected
    assert not master.state.finished
    lines = (tmp_path / "disturbed" / NAME / LEDGER).read_text().splitlines()
    assert sum(json.loads(line)["e"] == "skipped" for line in lines) == len(foreign) + 1


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        checkpoint_name("val_accuracy", 1.0, trial=5, epoch=1),
        "../" + checkpoint_name("val_accuracy", 1.0, trial=0, epoch=1),
    ],
)
def test_a_checkpoint_that_is_not_the_trials_is_refused_and_told(
    redis_url: str, tmp_path: Path, name: str
) -> None:
    metrics = json.dumps({"val_accuracy": 2.0})
    foreign_event = {"e": "report", "t": "0", "a": "1", "n": "1", "m": metrics, "f": name}
    master = run(redis_url, tmp_path, foreign_event)
    assert f"trial 0: refused {name!r} as a checkpoint" in master.view.notes
    for trial in master.state.trials.values():
        for file in (trial.checkpoint, trial.best_checkpoint):
            assert not file or is_checkpoint_of(trial.number, file)
