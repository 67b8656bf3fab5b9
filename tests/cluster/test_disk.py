"""Small studies with a real worker on disks that are full, read-only, or damage what they hold."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import Run, command, environment
from scattershot_common.bus.connection import URL_VARIABLE
from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import STALE
from scattershot_common.store.local import LocalStore
from scattershot_master.state.ledger import LEDGER, read
from support import checkpoints
from support.checkpoints import list_checkpoints, trial_folder
from support.pretend_master import Master, Watcher, study_file, table
from support.pretend_worker import PretendWorkers
from support.real_worker import MODULE, RealStudy, RealWorker
from support.waiting import eventually

TASKS = """
import torch
from torch import nn


class Growing:
    \"\"\"A state that becomes larger with every epoch.\"\"\"

    def __init__(self, kib):
        self.kib, self.epoch = kib, 0

    def state_dict(self):
        return {"epoch": self.epoch, "data": torch.zeros(self.kib * self.epoch, 256)}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


def growing(trial):
    state = Growing(trial.params["kib"])
    for epoch in trial.epochs(state=state):
        state.epoch = epoch
        trial.report(acc=trial.number + epoch / 100)


def falling(trial):
    model, began = nn.Linear(4, 4), 0
    for epoch in trial.epochs(model=model):
        began = began or epoch
        with torch.no_grad():
            model.weight.add_(torch.randn(4, 4))
        trial.report(acc=-float(epoch), began=began)
"""


def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a disk of its own at `folder`, where root may."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk can only be mounted as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 KiB."""
    yield from mounted(tmp_path / "disk", "-o", "size=256k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "-o", "ro")


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("worker"), TASKS)
    worker.start()
    yield worker
    worker.stop()


def master_of(worker: RealWorker, name: str, **tables: Any) -> Master:
    """Return the master of a study called `name` that trains the task `growing`."""
    study = {"name": name, "task": f"{MODULE}:growing", "metric": "acc"}
    whole: dict[str, Any] = {"study": study, "kill": {"rule": "none"}, **tables}
    return Master(worker.url, worker.root, study_file(**whole), Watcher(seconds=120))


# ---- full


def test_on_a_full_disk_a_trial_fails_with_the_reason_and_the_search_goes_on(
    worker: RealWorker, small_disk: Path
) -> None:
    master = master_of(
        worker,
        "full",
        space={"kib": {"choice": [1, 90]}},
        stage=[{"name": "coarse", "trials": 8, "epochs": 3}],
    )
    folder = worker.root / "full"
    (folder / "trials").symlink_to(small_disk)
    assert master.run()
    trials = master.state.trials.values()
    large = [trial for trial in trials if trial.params["kib"] == 90]
    small = [trial for trial in trials if trial.params["kib"] == 1]
    assert large and small, "the seed draws both"
    assert {trial.state for trial in small} == {"complete"}
    for trial in large:
        assert trial.state == "failed" and trial.done < 3
        assert "disk is full: cannot write" in trial.reason and "free space" in trial.reason
        sound = LocalStore(folder).newest_valid(trial.number)
        assert sound is None or sound.header["epoch"] <= trial.done
    assert any(LocalStore(folder).newest_valid(trial.number) is not None for trial in large), (
        "the checkpoint before is still good"
    )
    assert not [*small_disk.rglob(".tmp-*")]


def test_a_master_on_a_full_disk_says_so_and_goes_on_once_there_is_room(
    redis_url: str, small_disk: Path, tmp_path: Path, scattershot: Run
) -> None:
    file = tmp_path / "many.toml"
    file.write_text(
        '[study]\nname = "many"\ntask = "digits"\n[space]\nlr = { loguniform = [1e-4, 1.0] }\n'
        'dropout = 0.1\n[[stage]]\nname = "all"\ntrials = 60\nepochs = 6\n'
    )
    master = command("master", file, "--out", small_disk)
    own = {**environment(), URL_VARIABLE: redis_url}
    filler = small_disk / "filler"
    filler.write_bytes(bytes(224 * 1024))
    with PretendWorkers(redis_url, 2):
        full = subprocess.run(master, env=own, capture_output=True, text=True, timeout=120)
        assert full.returncode == 1
        last = full.stderr.strip().splitlines()
        assert len(last) == 1 and last[0].startswith("scattershot: the disk is full: ")
        assert LEDGER in last[0] and "run the same command again" in last[0]
        filler.unlink()
        again = subprocess.run(master, env=own, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    state = read(small_disk / "many")
    assert len(state.by_state["complete"]) == 60
    assert all(trial.done == 6 for trial in state.trials.values())


# ---- read-only


def test_a_worker_that_cannot_write_is_told_of_by_the_master_in_one_line(
    worker: RealWorker, read_only_disk: Path
) -> None:
    stage = [{"name": "coarse", "trials": 8, "epochs": 2}]
    master = master_of(worker, "read-only", space={"kib": 1}, stage=stage)
    (worker.root / "read-only" / "trials").symlink_to(read_only_disk)
    with pytest.raises(ScattershotError) as caught:
        master.run()
    text = str(caught.value)
    assert "trials all failed: file system is read-only" in text and "--out" in text
    assert "\n" not in text


def test_a_master_that_cannot_write_exits_with_one_line(
    read_only_disk: Path, scattershot: Run, tmp_path: Path
) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        '[study]\nname = "s"\ntask = "digits"\n[space]\nlr = 0.1\n'
        '[[stage]]\nname = "all"\ntrials = 1\nepochs = 1\n'
    )
    refused = scattershot("run", file, "--out", read_only_disk, status=1)
    assert refused.stderr.count("\n") == 1
    assert "cannot be written: Read-only file system" in refused.stderr


# ---- damaged


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def torn(path: Path) -> None:
    """Leave what a power cut may: the whole length, zeros where the blocks never came."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def cut(path: Path) -> None:
    os.truncate(path, 100)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.fixture
def study(worker: RealWorker) -> RealStudy:
    return RealStudy(worker, "falling")


@pytest.mark.parametrize(
    "damage",
    [flipped, torn, cut, emptied],
)
def test_a_trial_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    study: RealStudy, damage: Callable[[Path], None]
) -> None:
    study.send(1, until=3, epochs=5)
    study.until(1, "paused")
    # the best and the last two: it is thinned out after its report
    eventually(lambda: len(list_checkpoints(study.folder, 1)) == 3, 10)
    first, _, newest = list_checkpoints(study.folder, 1)
    damage(newest)
    study.send(1, until=5)
    study.until(1, "complete")
    assert f"{newest} is damaged" in study.worker.log.read_text()
    began = {
        event.epoch: event.metrics["began"] for event in study.events(1) if event.kind == "report"
    }
    assert began == {1: 1, 2: 1, 3: 1, 4: 3, 5: 3}, "it went on behind epoch 2"
    eventually(lambda: len(list_checkpoints(study.folder, 1)) == 3, 10)
    kept = list_checkpoints(study.folder, 1)
    assert kept[0] == first
    header = checkpoints.read_header(kept[-1])
    assert (header["epoch"], header["attempt"], len(header["history"])) == (5, 2, 5)


def test_temp_files_of_writers_long_dead_are_cleaned_when_a_trial_resumes(
    study: RealStudy,
) -> None:
    study.send(1, until=1, epochs=2)
    study.until(1, "paused")
    folder = trial_folder(study.folder, 1)
    old, fresh = folder / ".tmp-1-old", folder / ".tmp-2-fresh"
    for temp in (old, fresh):
        temp.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * STALE,) * 2)
    study.send(1, until=2)
    study.until(1, "complete")
    assert fresh.exists() and not old.exists()


def test_temp_files_of_writers_long_dead_are_cleaned_when_a_study_is_opened(
    redis_url: str, tmp_path: Path
) -> None:
    study = study_file(stage=[{"name": "coarse", "trials": 2, "epochs": 1}])
    with PretendWorkers(redis_url, 1, folder=tmp_path):
        first = Master(redis_url, tmp_path, study)
        assert first.run()
    folder = tmp_path / "pretended"
    before = table(first.state)
    old = [folder / "trials" / "00001" / ".tmp-1-old", folder / ".tmp-1-old"]
    fresh = folder / "trials" / "00001" / ".tmp-2-fresh"
    for temp in (*old, fresh):
        temp.parent.mkdir(parents=True, exist_ok=True)
        temp.write_bytes(b"half")
    for temp in old:
        os.utime(temp, (time.time() - 2 * STALE,) * 2)
    kept = list_checkpoints(folder, 1)
    second = Master(redis_url, tmp_path, study)
    second.ledger.close()
    assert fresh.exists() and not any(temp.exists() for temp in old)
    assert table(second.state) == before and list_checkpoints(folder, 1) == kept
