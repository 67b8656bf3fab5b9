"""A study by the real commands whose checkpoints lie in an object store."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.conftest import Run, export, table
from scattershot_common.store.open_store import study_store
from scattershot_master.state.ledger import LEDGER, read
from support.s3_server import KEY, SECRET
from support.waiting import alive, eventually

STUDY = """\
[study]
name = "stored"
task = "digits"

[space]
lr = { loguniform = [1e-2, 1e-1] }
optimizer = "adamw"
hidden = 16

[[stage]]
name = "coarse"
trials = 2
epochs = 2

[[stage]]
name = "final"
continue = 1
epochs = 60

[checkpoints]
keep = 1
"""


def done(folder: Path, trial: int) -> int:
    known = (folder / LEDGER).exists() and (folder / LEDGER).stat().st_size
    record = read(folder).trials.get(trial) if known else None
    return record.done if record else 0


@pytest.mark.slow
def test_a_study_in_an_object_store_is_killed_goes_on_and_ends_as_one_on_a_disk(
    bucket: str,
    scattershot: Run,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    stored, here = tmp_path / "stored.toml", tmp_path / "here.toml"
    stored.write_text(f'{STUDY}store = "{bucket}/pre/fix"\n')
    here.write_text(STUDY)
    folder = tmp_path / "out" / "stored"
    checkpoints = study_store(f"{bucket}/pre/fix", folder, "stored")

    run = started("run", stored, "--workers", "1", "--out", folder.parent)
    eventually(lambda: max(done(folder, 0), done(folder, 1)) > 5, 120)
    family = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    run.kill()
    eventually(lambda: not any(alive(pid) for pid in family), 20)
    killed = read(folder)
    assert not killed.finished
    scattershot("run", stored, "--workers", "1", "--out", folder.parent)
    log = (folder / "logs" / "workers.log").read_text()
    assert "starts again" not in log and "damaged" not in log

    scattershot("run", here, "--workers", "1", "--out", tmp_path / "here")
    stored_study = export(scattershot, folder)
    local_study = export(scattershot, tmp_path / "here" / "stored")
    assert stored_study["ensemble"] == local_study["ensemble"]
    assert stored_study["ensemble"]["test"]["examples"] == 360
    best = stored_study["trials"][0]
    assert len(best["history"]) == 60 and best["attempts"] > 1
    assert best["best_checkpoint"].startswith(f"{checkpoints.address}/trials/{best['trial']:05d}/")
    members = {member["trial"] for member in stored_study["ensemble"]["members"]}
    kept = checkpoints.all_checkpoints()
    assert set(kept) == {best["trial"]} | members and len(kept[best["trial"]]) <= 3
    assert not (folder / "trials").exists(), "nothing of it is on this disk"

    shown = json.loads(scattershot("show", str(best["trial"]), folder, "--json").stdout)
    assert best["best_checkpoint"] in shown["checkpoints"]
    built = scattershot("ensemble", "build", folder, "--size", "1", "--method", "top", "--json")
    assert [member["trial"] for member in json.loads(built.stdout)["members"]] == [best["trial"]]

    for path in folder.rglob("*"):
        if path.is_file():
            assert not re.search(f"{KEY}|{SECRET}".encode(), path.read_bytes()), path
    assert table(stored_study) == table(local_study)
