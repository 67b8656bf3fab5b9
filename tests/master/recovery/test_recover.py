"""A study whose ledger is lost, rebuilt from what is left of it, and run on."""

import json
import math
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from typer.testing import CliRunner

from scattershot_common.bus.connection import URL_VARIABLE, connect
from scattershot_common.bus.keys import Keys
from scattershot_common.errors import ScattershotError
from scattershot_common.store.checkpoint_names import parse_name
from scattershot_common.study.settings import StudyFile
from scattershot_master import cli
from scattershot_master.recovery.recover import recover
from scattershot_master.search import redis_study, search
from scattershot_master.search.open_study import note_home
from scattershot_master.state.ledger import LEDGER, Ledger, read
from scattershot_master.state.study_state import StudyState
from support.checkpoints import list_checkpoints, metadata, read_header, seal
from support.pretend_master import Master, Watcher, study_file, table
from support.pretend_worker import PretendWorkers

STUDY = study_file()
NAME = STUDY.study.name
TOML = """\
[study]
name = "pretended"
task = "digits"
[space]
lr = { loguniform = [1e-5, 1.0] }
dropout = { uniform = [0.0, 0.6] }
units = { choice = [16, 32, 64] }
[[stage]]
name = "coarse"
trials = 10
epochs = 4
[[stage]]
name = "fine"
trials = 6
epochs = 5
refine = 0.4
[[stage]]
name = "final"
continue = 3
epochs = 8
[kill]
rule = "sync_halving"
"""


@pytest.fixture(autouse=True)
def _quick_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.02)
    monkeypatch.setattr(redis_study, "_LOST_AFTER", 0.2)
    monkeypatch.delenv(URL_VARIABLE, raising=False)


def command(*words: object) -> Any:
    """Return what a command prints as JSON."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sealed(state: StudyState, folder: Path) -> None:
    """Write into the checkpoints what a real worker would have written into them."""
    for record in state.trials.values():
        for path in list_checkpoints(folder, record.number):
            told = parse_name(path.name)
            assert told is not None
            history = [line for line in record.history if line["epoch"] <= told.epoch]
            header = {
                "study": NAME,
                "trial": record.number,
                "stage": record.stage,
                "attempt": record.attempts,
                "epoch": told.epoch,
                "params": record.params,
                "seed": record.seed,
                "metric": state.objective.metric,
                "goal": state.objective.goal,
                "value": history[-1][state.objective.metric],
                "history": history,
            }
            path.write_bytes(seal(safetensors.numpy.save({}, metadata(header))))


def stopped_at(reports: int, url: str, root: Path, study: StudyFile = STUDY) -> StudyState:
    """Run the study until so many epochs are reported and all trials stand; return its state."""
    master: Master
    gate = threading.Event()

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= reports and not gate.is_set() else ""

    def look(state: StudyState) -> None:
        if sum(trial.done for trial in state.trials.values()) >= reports:
            master.search.stopping = True

    with PretendWorkers(url, 3, seed=1, fault=fault, folder=root) as workers:
        master = Master(url, root, study, Watcher(look))
        master.run()
    state = read(root / NAME)
    (root / NAME / "study.toml").write_text(TOML)
    sealed(state, root / NAME)
    return state


def finish(url: str, root: Path, study: StudyFile = STUDY) -> StudyState:
    """Run the study to its end; return its state as its ledger has it."""
    with PretendWorkers(url, 2, folder=root):
        assert Master(url, root, study).run()
    return read(root / NAME)


@pytest.fixture(scope="module")
def ended(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a study that came to its end, undisturbed."""
    root = tmp_path_factory.mktemp("ended")
    connect(redis_url).flushdb()
    stopped_at(10_000, redis_url, root)
    return root


@pytest.fixture
def copy(ended: Path, tmp_path: Path) -> Path:
    """A copy of the ended study's root of this test alone."""
    return Path(shutil.copytree(ended, tmp_path / "copy"))


def lines_of(folder: Path) -> list[bytes]:
    return (folder / LEDGER).read_bytes().splitlines(keepends=True)


def results(state: StudyState) -> list[object]:
    """Return what the trials with results came to."""
    return [
        (one.number, one.stage, one.params, one.seed, one.history, one.best_checkpoint)
        for one in state.trials.values()
        if one.history
    ]


# ---- a ledger that is gone


def test_a_ledger_that_is_gone_is_written_anew_from_the_checkpoints(
    copy: Path, ended: Path
) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--json")
    after = read(folder)
    assert told["ledger"] == "rebuilt" and told["redis"] is None
    assert told["trials"] == len(after.trials) == 16
    assert told["epochs"] == sum(trial.done for trial in before.trials.values())
    assert table(after) == table(before)
    assert [stage.trials for stage in after.stages] == [stage.trials for stage in before.stages]
    assert [stage.box for stage in after.stages] == [stage.box for stage in before.stages]
    assert after.uid != before.uid and after.uid


@pytest.mark.parametrize(
    "words", [["status"], ["top"], ["show", "3"], ["export"], ["status", "--json"]]
)
def test_a_recovered_study_can_be_looked_at(copy: Path, words: list[str]) -> None:
    folder = copy / NAME
    (folder / LEDGER).unlink()
    command("recover", folder, "--json")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "scattershot"), *words, str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr


@pytest.mark.parametrize("reports", [1, 9, 12, 17, 25, 33, 41])
def test_a_study_whose_ledger_is_gone_goes_on_to_the_end_it_would_have_had(
    redis_url: str, tmp_path: Path, ended: Path, reports: int
) -> None:
    before = stopped_at(reports, redis_url, tmp_path)
    folder = tmp_path / NAME
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--redis", redis_url, "--json")
    assert told["redis"]["namesake"], "what Redis knew from before is forgotten"
    after = read(folder)
    assert results(after) == results(before)
    assert table(finish(redis_url, tmp_path)) == table(read(ended / NAME))


def test_trials_that_left_no_trace_count_as_killed_once_a_later_stage_was_opened(
    copy: Path, ended: Path
) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    gone = [one.number for one in before.trials.values() if one.state == "killed"][:4]
    for number in gone:
        shutil.rmtree(folder / "trials" / f"{number:05d}")
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--json")
    after = read(folder)
    assert sorted(after.trials) == sorted(before.trials)
    for number in gone:
        assert after.trials[number].state == "killed" and not after.trials[number].history
        assert after.trials[number].seed == before.trials[number].seed
    assert (
        f"{len(gone)} trials count as killed: how they ended was lost with the ledger"
        in told["notes"]
    )
    kept = [line for line in table(before) if json.loads(line)[0] not in gone]
    assert [line for line in results(after)] == [
        line
        for line in results(before)
        if line[0] not in gone  # type: ignore[index]
    ]
    assert len(kept) == 16 - len(gone)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(copy: Path, ended: Path) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    two = next(
        one.number
        for one in before.trials.values()
        if len(list_checkpoints(folder, one.number)) == 2
    )
    old, new = list_checkpoints(folder, two)
    new.write_bytes(new.read_bytes()[:-1] + b"?")
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--json")
    assert any(f"{new} is damaged" in note for note in told["notes"])
    epoch = parse_name(old.name)
    assert epoch is not None
    assert read(folder).trials[two].done == epoch.epoch


def test_a_trial_that_failed_is_known_by_its_traceback(redis_url: str, tmp_path: Path) -> None:
    stopped_at(12, redis_url, tmp_path)
    folder = tmp_path / NAME
    for path in (folder / "trials" / "00004").iterdir():
        path.unlink()
    (folder / "trials" / "00004" / "error.txt").write_text(
        "Traceback (most recent call last):\n  …\nZeroDivisionError: division by zero\n"
    )
    (folder / LEDGER).unlink()
    command("recover", folder, "--json")
    trial = read(folder).trials[4]
    assert (trial.state, trial.reason) == ("failed", "ZeroDivisionError: division by zero")


def test_checkpoints_of_another_study_are_left_alone(copy: Path, ended: Path) -> None:
    folder = copy / NAME
    (path,) = list_checkpoints(folder, 0)[-1:]
    header = {**read_header(path), "seed": 7}
    path.write_bytes(seal(safetensors.numpy.save({}, metadata(header))))
    for other in list_checkpoints(folder, 0):
        if other != path:
            other.unlink()
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--json")
    assert f"{path} is of another study; it is left alone" in told["notes"]
    assert not read(folder).trials[0].history


def test_a_study_file_that_is_not_the_one_it_was_begun_with_is_noticed(copy: Path) -> None:
    folder = copy / NAME
    (folder / LEDGER).unlink()
    (folder / "study.toml").write_text(TOML.replace("1e-5, 1.0", "1e-4, 1.0"))
    told = command("recover", folder, "--json")
    assert any("would not draw them" in note for note in told["notes"])


@pytest.mark.parametrize("rule", ["halving", "median", "none"])
@pytest.mark.parametrize("reports", [5, 30])
def test_a_study_of_any_rule_goes_on_to_an_end(
    redis_url: str, tmp_path: Path, rule: str, reports: int
) -> None:
    study = study_file(kill={"rule": rule})
    before = stopped_at(reports, redis_url, tmp_path, study)
    folder = tmp_path / NAME
    (folder / "study.toml").write_text(TOML.replace("sync_halving", rule))
    (folder / LEDGER).unlink()
    command("recover", folder, "--redis", redis_url, "--json")
    for line in results(before):
        assert line in results(read(folder))
    after = finish(redis_url, tmp_path, study)
    assert [len(stage.trials) for stage in after.stages] == [10, 6, 3]
    assert not after.living


# ---- a ledger that is damaged


def damage(folder: Path, numbers: list[int]) -> None:
    """Replace lines of the ledger, from 1, by rubbish."""
    lines = lines_of(folder)
    for number in numbers:
        lines[number - 1] = b'{"e":"report","t":\x00\xff\n'
    (folder / LEDGER).write_bytes(b"".join(lines))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.99])
def test_a_damaged_ledger_is_moved_aside_and_written_anew(
    copy: Path, ended: Path, share: float
) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    count = len(lines_of(folder))
    damage(folder, [1 + int(share * (count - 2)) + k for k in (0, 1)])
    broken = (folder / LEDGER).read_bytes()
    with pytest.raises(ScattershotError, match="is damaged"):
        read(folder)
    told = command("recover", folder, "--json")
    assert table(read(folder)) == table(before)
    aside = folder / f"{LEDGER}.before-recovery-1"
    assert told["moved"] == [str(aside)]
    assert aside.read_bytes() == broken


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_ledger_damaged_in_many_places_is_recovered_with_the_checkpoints(
    copy: Path, ended: Path, every: int
) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    damage(folder, [*range(2, len(lines_of(folder)), every)])
    command("recover", folder, "--json")
    assert results(read(folder)) == results(before)


def test_a_damaged_ledger_is_recovered_without_any_checkpoint(copy: Path, ended: Path) -> None:
    folder, before = copy / NAME, read(ended / NAME)
    shutil.rmtree(folder / "trials")
    (folder / "study.toml").unlink()
    lines = lines_of(folder)
    (folder / LEDGER).write_bytes(b"".join([*lines[:40], b"rubbish\n", *lines[40:]]))
    command("recover", folder, "--json")
    assert table(read(folder)) == table(before)


def test_where_code_and_data_lie_is_recovered_from_a_damaged_ledger(
    copy: Path, tmp_path: Path
) -> None:
    ledger = Ledger(copy / NAME)
    note_home(ledger, tmp_path, "data")
    ledger.close()
    damage(copy / NAME, [5])
    command("recover", copy / NAME, "--json")
    state = read(copy / NAME)
    assert (state.home, state.data) == (str(tmp_path), "data")


def test_a_ledger_that_lacks_a_line_is_recovered_too(copy: Path, ended: Path) -> None:
    """Every line of it is sound, but what it adds up to makes no sense."""
    folder, before = copy / NAME, read(ended / NAME)
    lines = lines_of(folder)
    (at,) = [k for k, line in enumerate(lines) if b'"sampled"' in line and b'"t":5,' in line]
    (folder / LEDGER).write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    command("recover", folder, "--json")
    assert table(read(folder)) == table(before)


def test_a_second_recovery_keeps_what_the_first_moved_aside(copy: Path) -> None:
    folder = copy / NAME
    for number in (1, 2):
        damage(folder, [5])
        told = command("recover", folder, "--json")
        assert told["moved"] == [str(folder / f"{LEDGER}.before-recovery-{number}")]
    assert len(list(folder.glob("*.before-recovery-*"))) == 2


def test_the_data_of_an_embedded_redis_goes_aside_with_the_ledger_it_belongs_to(copy: Path) -> None:
    folder = copy / NAME
    (folder / "redis").mkdir()
    (folder / "redis" / "appendonly.aof").touch()
    (folder / LEDGER).unlink()
    told = command("recover", folder, "--json")
    assert told["moved"] == [str(folder / "redis.before-recovery-1")]
    assert not (folder / "redis").exists()
    assert (folder / "redis.before-recovery-1" / "appendonly.aof").exists()


# ---- a ledger that is sound


def test_a_sound_ledger_is_left_as_it_is(copy: Path) -> None:
    folder = copy / NAME
    before = (folder / LEDGER).read_bytes()
    told = command("recover", folder, "--json")
    assert told["ledger"] == "sound" and told["moved"] == []
    assert (folder / LEDGER).read_bytes() == before


def test_a_redis_that_lost_the_study_is_given_it_again(
    redis_url: str, tmp_path: Path, ended: Path
) -> None:
    state = stopped_at(12, redis_url, tmp_path)
    connection: Any = connect(redis_url)
    connection.flushall()
    told = command("recover", tmp_path / NAME, "--redis", redis_url, "--json")
    assert told["redis"]["lost"] and not told["redis"]["namesake"]
    assert told["redis"]["living"] == state.living > 0
    keys = Keys(NAME)
    for number in state.by_state["waiting"]:
        record = state.trials[number]
        trial_state, epoch, attempt = connection.hmget(
            keys.trial(number), "state", "epoch", "attempt"
        )
        assert (trial_state, int(epoch), int(attempt)) == ("waiting", record.done, record.attempts)
    assert not connection.exists(keys.master), "the study is free for its master"
    assert table(finish(redis_url, tmp_path)) == table(read(ended / NAME))


def test_a_redis_that_knows_the_study_keeps_what_it_knows(redis_url: str, tmp_path: Path) -> None:
    stopped_at(12, redis_url, tmp_path)
    connection: Any = connect(redis_url)
    before = {key: connection.hgetall(key) for key in connection.keys(f"{Keys(NAME).prefix}*")}
    told = command("recover", tmp_path / NAME, "--redis", redis_url, "--json")
    assert not told["redis"]["lost"] and not told["redis"]["namesake"]
    assert {key: connection.hgetall(key) for key in before} == before


def test_another_study_of_the_name_is_not_forgotten_for_one_that_was_never_recovered(
    redis_url: str, tmp_path: Path
) -> None:
    stopped_at(3, redis_url, tmp_path / "here")
    connect(redis_url).flushdb()
    stopped_at(3, redis_url, tmp_path / "there")
    with pytest.raises(ScattershotError, match="another study named 'pretended' is in this Redis"):
        command("recover", tmp_path / "here" / NAME, "--redis", redis_url)


# ---- what is refused


def test_a_study_with_a_master_is_not_touched(copy: Path) -> None:
    folder = copy / NAME
    damage(folder, [5])
    ledger = (folder / LEDGER).read_bytes()
    (folder / LEDGER).rename(folder / "kept")
    holder = Ledger(folder)
    holder._file.write(ledger)
    holder._file.flush()
    try:
        with pytest.raises(ScattershotError, match="a master runs the study"):
            command("recover", folder)
    finally:
        holder._file.close()
    assert (folder / LEDGER).read_bytes() == ledger


def test_a_master_in_redis_is_not_robbed(redis_url: str, tmp_path: Path) -> None:
    stopped_at(3, redis_url, tmp_path)
    (tmp_path / NAME / LEDGER).unlink()
    connect(redis_url).set(Keys(NAME).master, "alive")
    with pytest.raises(ScattershotError, match="a master runs the study 'pretended' in this Redis"):
        command("recover", tmp_path / NAME, "--redis", redis_url)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([], "nothing tells which study is in"),
        (["study.toml"], "nothing is left of the study in"),
        (["trials"], "nothing tells which study is in"),
    ],
)
def test_where_nothing_is_left_it_says_so(copy: Path, left: list[str], said: str) -> None:
    folder = copy / NAME
    for path in folder.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ScattershotError, match=said):
        command("recover", folder)
    assert {path.name for path in folder.iterdir()} == set(left)


def test_it_is_told_in_lines_for_people(copy: Path) -> None:
    folder = copy / NAME
    (folder / LEDGER).unlink()
    done = CliRunner().invoke(cli.app, ["recover", str(folder)])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("recovered 16 trials with ")
    assert lines[-1] == f"What there is: scattershot status {folder}"
    assert "Traceback" not in done.output


def test_a_value_that_is_no_number_survives(redis_url: str, tmp_path: Path) -> None:
    def bent(params: Any, seed: int, epoch: int) -> dict[str, float]:
        return {"val_accuracy": 0.5, "val_loss": math.nan, "train_loss": math.inf}

    stage = [{"name": "only", "trials": 2, "epochs": 2}]
    study = study_file(stage=stage, kill={"rule": "none"})
    with PretendWorkers(redis_url, 1, curve=bent, folder=tmp_path):
        assert Master(redis_url, tmp_path, study).run()
    before = read(tmp_path / NAME)
    sealed(before, tmp_path / NAME)
    damage(tmp_path / NAME, [4])
    recover(tmp_path / NAME)
    assert results_text(read(tmp_path / NAME)) == results_text(before)


def results_text(state: StudyState) -> str:
    return json.dumps(results(state))
