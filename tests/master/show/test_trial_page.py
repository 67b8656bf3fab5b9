import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from scattershot_common.errors import ScattershotError
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.store.local import LocalStore
from scattershot_master.show import trial_page
from scattershot_master.show.layout import plain_text
from scattershot_master.state.ledger import LEDGER, Ledger, read
from support import checkpoints
from support.checkpoints import trial_folder
from support.synthetic_study import Simulation

NUMBER = 69  # complete after 30 epochs
FAILED = 17


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "digits"
    ledger = Ledger(folder)
    Simulation().run(to=ledger)
    ledger.close()
    return folder


@pytest.fixture
def folder(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "digits"))


def checkpoint(folder: Path, number: int, epoch: int, **changes: Any) -> Path:
    """Write the checkpoint that a worker would have written of `number` after `epoch`."""
    record = read(folder).trials[number]
    history = record.history[:epoch]
    while len(history) < epoch:
        history.append({"epoch": len(history) + 1, "val_accuracy": 0.999, "val_loss": 0.01})
    value = history[-1]["val_accuracy"]
    header = {
        "study": "digits",
        "trial": number,
        "stage": record.stage,
        "attempt": 1,
        "epoch": epoch,
        "params": record.params,
        "seed": record.seed,
        "metric": "val_accuracy",
        "goal": "maximize",
        "value": value,
        "history": history,
        **changes,
    }
    path = trial_folder(folder, number) / checkpoint_name("val_accuracy", value, number, epoch)
    tensors = {"model/weight": np.zeros(3, np.float32)}
    checkpoints.write(
        path, checkpoints.seal(save(tensors, checkpoints.metadata(header))), sync=False
    )
    return path


def text(folder: Path, number: int) -> str:
    return plain_text(trial_page.trial_page(trial_page.read_trial(folder, number)))


def test_a_trial_is_shown_from_the_ledger_where_its_checkpoints_were_not_kept(
    folder: Path,
) -> None:
    shown = text(folder, NUMBER)
    record = read(folder).trials[NUMBER]
    assert shown.startswith(f"trial {NUMBER} · complete · 30/30 epochs · stage final")
    assert f"lr            {record.params['lr']}" in shown
    assert f"seed {record.seed} · 2 attempts · worker {record.worker}" in shown
    for line in record.history:
        assert f"{line['val_accuracy']:.4f}" in shown
    assert "checkpoints" not in shown


def test_a_trial_is_shown_from_its_files_alone(folder: Path) -> None:
    record = read(folder).trials[NUMBER]
    checkpoint(folder, NUMBER, 10)
    newest = checkpoint(folder, NUMBER, 12)
    (folder / LEDGER).unlink()
    view = trial_page.read_trial(folder, NUMBER)
    assert view.record.params == record.params
    assert view.record.seed == record.seed
    assert view.record.history == record.history[:12]
    best = max(record.history[:12], key=lambda line: line["val_accuracy"])
    assert view.record.best_value == best["val_accuracy"]
    assert view.record.best_epoch == best["epoch"]
    shown = plain_text(trial_page.trial_page(view))
    assert "state unknown: no ledger" in shown
    assert str(newest) in shown


def test_only_the_header_of_a_checkpoint_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(folder, NUMBER, 12)
    (folder / LEDGER).unlink()
    monkeypatch.setattr(LocalStore, "load", pytest.fail)
    assert trial_page.read_trial(folder, NUMBER).record.done == 12


def test_epochs_after_the_last_checkpoint_come_from_the_ledger(folder: Path) -> None:
    checkpoint(folder, NUMBER, 12)
    assert trial_page.read_trial(folder, NUMBER).record.done == 30


def test_epochs_that_the_ledger_never_took_in_come_from_the_checkpoint(folder: Path) -> None:
    checkpoint(folder, NUMBER, 31)
    lines = (folder / LEDGER).read_text().splitlines(keepends=True)
    ends = ('"e":"complete"', f'"t":{NUMBER},')  # the master died before it heard of the end
    remaining = (line for line in lines if not all(mark in line for mark in ends))
    (folder / LEDGER).write_text("".join(remaining))
    record = trial_page.read_trial(folder, NUMBER).record
    assert record.done == 31
    assert (record.best_value, record.best_epoch) == (0.999, 31)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(folder: Path) -> None:
    checkpoint(folder, NUMBER, 10)
    damaged = checkpoint(folder, NUMBER, 12)
    damaged.write_bytes(damaged.read_bytes()[:200])
    (folder / LEDGER).unlink()
    assert trial_page.read_trial(folder, NUMBER).record.done == 10
    assert f"damaged {damaged}" in text(folder, NUMBER)


def test_a_trial_whose_only_file_is_damaged_says_so(folder: Path) -> None:
    damaged = checkpoint(folder, NUMBER, 12)
    damaged.write_bytes(b"nothing")
    (folder / LEDGER).unlink()
    with pytest.raises(ScattershotError, match="damaged"):
        trial_page.read_trial(folder, NUMBER)


def test_an_unknown_trial_is_answered_with_those_there_are(folder: Path) -> None:
    with pytest.raises(ScattershotError, match=r"no trial 999 in .*: it has 0 to 71"):
        trial_page.read_trial(folder, 999)
    checkpoint(folder, NUMBER, 1)
    (folder / LEDGER).unlink()
    with pytest.raises(ScattershotError, match="it has 69 to 69"):
        trial_page.read_trial(folder, 999)


def test_a_failed_trial_shows_its_reason_and_the_end_of_its_traceback(folder: Path) -> None:
    lines = [f"  frame {index}" for index in range(40)]
    error = trial_folder(folder, FAILED) / "error.txt"
    error.parent.mkdir(parents=True)
    error.write_text("\n".join([*lines, "RuntimeError: shapes"]) + "\n")
    shown = text(folder, FAILED)
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied (tasks.py:41)" in shown
    assert "  frame 39\nRuntimeError: shapes\n" in shown
    assert "frame 3\n" not in shown


def test_a_trial_that_did_not_fail_shows_no_old_traceback(folder: Path) -> None:
    error = trial_folder(folder, NUMBER) / "error.txt"
    error.parent.mkdir(parents=True)
    error.write_text("RuntimeError: of an attempt before\n")
    assert "attempt before" not in text(folder, NUMBER)


def test_data_of_a_trial_are_those_of_an_export_and_its_files(folder: Path) -> None:
    path = checkpoint(folder, NUMBER, 30)
    data = trial_page.trial_view_data(trial_page.read_trial(folder, NUMBER), folder)
    assert data["trial"] == NUMBER and data["state"] == "complete" and data["epochs"] == 30
    assert data["checkpoints"] == [f"trials/{NUMBER:05d}/{path.name}"]
    assert data["error"] == ""


def test_a_trial_that_diverged_shows_where_its_curve_ends(folder: Path) -> None:
    state = read(folder)
    number = next(
        trial.number
        for trial in state.trials.values()
        if trial.history and math.isnan(trial.best_value)
    )
    assert "nan" in text(folder, number)
    assert "best" not in text(folder, number).split("epoch  ")[1]


def test_the_losses_that_a_trial_began_with_are_told_apart_from_its_epochs(folder: Path) -> None:
    view = trial_page.read_trial(folder, NUMBER)
    view.record.history[0].update(initial_loss=2.41, chance_loss=2.3026)
    shown = plain_text(trial_page.trial_page(view))
    assert "first loss 2.41" in shown and "at chance 2.3026" in shown
    assert "initial_loss" not in shown
