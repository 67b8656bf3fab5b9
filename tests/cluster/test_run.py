from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.conftest import STUDY, Run, command, environment, export, table
from scattershot_master.state.ledger import LEDGER, read
from scattershot_master.state.study_state import StudyState
from support.checkpoints import read_header
from support.waiting import alive, eventually

Started = Callable[..., subprocess.Popen[str]]


def state(folder: Path) -> StudyState | None:
    return read(folder) if (folder / LEDGER).exists() and (folder / LEDGER).stat().st_size else None


def epochs_reported(folder: Path) -> int:
    found = state(folder)
    return sum(len(trial.history) for trial in found.trials.values()) if found else 0


def test_a_study_runs_from_coarse_to_fine_to_an_ensemble(
    finished: tuple[Path, str], scattershot: Run
) -> None:
    folder, printed = finished
    result = export(scattershot, folder)
    assert [stage["name"] for stage in result["stages"]] == ["coarse", "fine", "final"]
    assert len(result["trials"]) == 13
    states = [trial["state"] for trial in result["trials"]]
    assert set(states) == {"complete", "killed"}
    final = [trial for trial in result["trials"] if trial["stage"] == "final"]
    assert len(final) == 2 and all(len(trial["history"]) == 6 for trial in final)
    values = [trial["best_value"] for trial in result["trials"]]
    assert values == sorted(values, reverse=True) and values[0] > 0.9
    test = result["ensemble"]["test"]
    assert test["examples"] == 360 and 0.8 < test["best_single"] <= 1
    assert str(folder) in printed and "ensemble" in printed
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if _belongs(process, folder)
    ]


def _belongs(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder.parent) in part for part in process.info["cmdline"] or [])


def test_the_names_of_the_checkpoints_are_the_leaderboard(
    finished: tuple[Path, str], scattershot: Run
) -> None:
    folder, _ = finished
    names = sorted((path.name for path in folder.glob("trials/*/*.safetensors")), reverse=True)
    best = export(scattershot, folder)["trials"][0]
    assert names[0].startswith(f"val_accuracy={best['best_value']:.5f}-trial=")
    assert any(f"trial={best['trial']:05d}" in name for name in names)
    newest = max(folder.glob(f"trials/{best['trial']:05d}/*"), key=lambda path: path.name[-20:])
    header = read_header(newest)
    assert header["params"] == best["params"] and header["seed"] == best["seed"]
    assert [line["val_accuracy"] for line in header["history"]] == [
        line["val_accuracy"] for line in best["history"]
    ]


def test_running_a_finished_study_again_shows_its_end_at_once(
    finished: tuple[Path, str], study_file: Path, scattershot: Run
) -> None:
    folder, printed = finished
    before = (folder / LEDGER).read_bytes()
    again = scattershot("run", study_file, "--out", folder.parent)
    assert (folder / LEDGER).read_bytes() == before
    assert again.stdout.splitlines()[2:6] == [
        line for line in printed.splitlines() if line in again.stdout.splitlines()[2:6]
    ]


@pytest.mark.slow
def test_another_number_of_workers_and_ctrl_c_change_no_digit(
    finished: tuple[Path, str], study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    run = started("run", study_file, "--workers", "1", "--out", tmp_path)
    eventually(lambda: epochs_reported(tmp_path / "small") > 3, 120)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f"scattershot run {study_file} --workers 1 --out {tmp_path}" in said
    stopped = state(tmp_path / "small")
    assert stopped is not None and not stopped.by_state["running"] and not stopped.finished
    scattershot("run", study_file, "--workers", "1", "--out", tmp_path)
    resumed = export(scattershot, tmp_path / "small")
    assert table(resumed) == table(export(scattershot, finished[0]))
    assert resumed["ensemble"] == export(scattershot, finished[0])["ensemble"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "came", [("SIGHUP", "SIGHUP"), ("SIGUSR1", "SIGTERM"), ("SIGUSR2", "SIGUSR2")], ids="-".join
)
def test_a_closed_terminal_and_a_batch_systems_warnings_are_a_clean_stop(
    study_file: Path, started: Started, tmp_path: Path, came: tuple[str, ...]
) -> None:
    run = started("run", study_file, "--workers", "1", "--out", tmp_path)
    eventually(lambda: epochs_reported(tmp_path / "small") > 3, 120)
    family = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    for name in came:
        run.send_signal(getattr(signal, name))
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "stopped; nothing is lost" in said
    stopped = state(tmp_path / "small")
    assert stopped is not None and not stopped.by_state["running"] and not stopped.finished
    assert not any(map(alive, family))


def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_end(
    finished: tuple[Path, str], study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    run = started("run", study_file, "--workers", "2", "--out", tmp_path)
    eventually(lambda: epochs_reported(tmp_path / "small") > 8, 120)
    family = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    assert len(family) >= 4  # the pool, supervisors, children, Redis
    run.kill()
    eventually(lambda: not any(alive(pid) for pid in family), 20)
    scattershot("run", study_file, "--workers", "2", "--out", tmp_path)
    assert table(export(scattershot, tmp_path / "small")) == table(export(scattershot, finished[0]))


@pytest.mark.slow
def test_killed_workers_are_replaced_and_the_end_is_the_same(
    finished: tuple[Path, str], study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    run = started("run", study_file, "--workers", "2", "--out", tmp_path)
    folder = tmp_path / "small"
    victims = {
        3: "-m scattershot_worker.child.main",
        9: "--slot 1",  # a supervisor, and its child with it
        15: "--slots 2",  # the process that keeps the supervisors
        21: "redis",
    }
    for reports, words in victims.items():
        eventually(lambda enough=reports: epochs_reported(folder) > enough, 120)  # type: ignore[misc]
        for process in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.Error):  # some end while one looks at them
                argv = f"{process.name() if words == 'redis' else ' '.join(process.cmdline())} "
                if f"{words} " in argv or (words == "redis" and "redis" in argv):
                    process.kill()
    assert run.wait(timeout=120) == 0
    assert table(export(scattershot, folder)) == table(export(scattershot, finished[0]))


@pytest.mark.slow
def test_fresh_begins_beside_and_deletes_nothing(
    study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    text = STUDY.replace("trials = 9", "trials = 2").replace("trials = 4", "trials = 1")
    small = tmp_path / "s.toml"
    small.write_text(text.replace("continue = 2", "continue = 1").replace("sync_halving", "none"))
    scattershot("run", small, "--workers", "2", "--out", tmp_path / "o")
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    run = started("run", small, "--workers", "2", "--out", tmp_path / "o", "--fresh")
    eventually(lambda: (tmp_path / "o" / "small-2" / LEDGER).exists(), 30)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.slow
def test_a_trial_is_killed_by_hand_and_the_worker_takes_the_next(
    scattershot: Run, started: Started, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def train(trial):\n"
        "    for epoch in trial.epochs():\n"
        "        for _ in trial.batches(range(1000 if trial.number == 0 else 1)):\n"
        "            time.sleep(0.02)\n"
        "        trial.report(val_accuracy=0.5)\n"
    )
    file = tmp_path / "slow.toml"
    file.write_text(
        '[study]\nname = "slow"\ntask = "slow:train"\n[space]\nlr = { uniform = [0.0, 1.0] }\n'
        '[[stage]]\nname = "all"\ntrials = 3\nepochs = 1\n'
    )
    run = started("run", file, "--workers", "1", "--out", tmp_path)
    folder = tmp_path / "slow"
    eventually(lambda: (found := state(folder)) and found.by_state["running"], 60)
    assert "stopping" in scattershot("kill", "0", "--folder", folder).stdout
    assert run.wait(timeout=60) == 0
    trials = {trial["trial"]: trial for trial in export(scattershot, folder)["trials"]}
    assert trials[0]["state"] == "killed" and trials[0]["reason"] == "by hand"
    assert trials[1]["state"] == trials[2]["state"] == "complete"
    assert trials[0]["worker"] == trials[1]["worker"]


@pytest.mark.slow
def test_stop_ends_a_run_cleanly(
    study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    run = started("run", study_file, "--workers", "1", "--out", tmp_path)
    eventually(lambda: epochs_reported(tmp_path / "small") > 1, 120)
    scattershot("stop", tmp_path / "small")
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 0 and "nothing is lost" in said
    assert "no master runs" in scattershot("stop", tmp_path / "small", status=1).stderr


def test_a_second_master_on_a_running_study_is_refused(
    study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    started("run", study_file, "--workers", "1", "--out", tmp_path)
    eventually(lambda: state(tmp_path / "small") is not None, 30)
    refused = scattershot("run", study_file, "--workers", "1", "--out", tmp_path, status=1)
    assert "another master" in refused.stderr


def test_looking_needs_neither_torch_nor_redis_nor_numpy(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for words in (["status"], ["top"], ["show", "0"]):
        done = subprocess.run(
            [command()[0], *words, str(folder)],
            env={**environment(), "PYTHONPROFILEIMPORTTIME": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        for module in ("torch", "redis", "rq", "numpy", "scipy"):
            assert f" {module}\n" not in done.stderr, (words, module)


@pytest.mark.slow
def test_the_ensemble_is_built_and_tested_by_command(
    finished: tuple[Path, str], scattershot: Run
) -> None:
    folder, _ = finished
    before = export(scattershot, folder)["ensemble"]
    top = json.loads(
        scattershot("ensemble", "build", folder, "--size", "2", "--method", "top", "--json").stdout
    )
    assert [member["weight"] for member in top["members"]] == [1, 1] and top["test"] is None
    tested = json.loads(scattershot("ensemble", "eval", folder, "--json").stdout)
    assert tested["test"]["examples"] == 360
    scattershot("ensemble", "build", folder)
    scattershot("ensemble", "eval", folder)
    assert export(scattershot, folder)["ensemble"] == before
