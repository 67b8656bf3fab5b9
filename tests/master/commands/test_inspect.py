import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_master.commands import inspect
from scattershot_master.state.ledger import Ledger
from support.synthetic_study import Simulation, event

Run = Callable[..., str]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "digits"
    ledger = Ledger(folder)
    Simulation().run(to=ledger)
    ledger.close()
    return folder


@pytest.fixture
def run() -> Run:
    app = typer.Typer()
    for command in (
        inspect.status,
        inspect.top,
        inspect.show,
        inspect.export,
        inspect.diagnose,
    ):
        app.command()(command)

    def invoke(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_status_tells_stages_states_best_warnings_ensemble_workers_and_files(
    study: Path, run: Run
) -> None:
    shown = run("status", study)
    assert "finished" in shown
    assert "72 trials: " in shown and " killed, 2 failed" in shown
    for title in ("stages", "best trial", "failures", "warnings", "ensemble", "workers", "files"):
        assert f"\n{title}\n" in shown
    assert f"checkpoints  {study}/trials" in shown


def test_status_of_a_root_is_that_of_its_latest_study(study: Path, run: Run) -> None:
    assert run("status", study.parent) == run("status", study)


def test_what_is_printed_into_a_pipe_is_plain_and_uncut(study: Path, run: Run) -> None:
    for arguments in (("status", study), ("top", study), ("show", 69, study)):
        shown = run(*arguments)
        assert "\x1b" not in shown and "…" not in shown
        assert not any(line != line.rstrip() for line in shown.splitlines())


def test_status_as_json(study: Path, run: Run) -> None:
    data = json.loads(run("status", study, "--json"))
    assert data["study"]["counts"]["failed"] == 2
    assert data["running"] is False and data["seconds_left"] is None
    assert data["failures"][0]["trials"] == [17, 58]
    assert data["best"][0]["trial"] == 69
    assert {worker["worker"] for worker in data["workers"]} == {"host-0-4000", "host-1-4001"}


def test_status_of_a_study_that_runs_says_so(tmp_path: Path, run: Run) -> None:
    ledger = Ledger(tmp_path / "digits")
    Simulation().run(100, to=ledger)
    ledger.commit()
    assert "running for" in run("status", tmp_path)
    assert json.loads(run("status", tmp_path, "--json"))["running"] is True
    ledger.close()
    assert "stopped" in run("status", tmp_path)


def test_top_shows_as_many_trials_as_asked(study: Path, run: Run) -> None:
    numbered = [
        line for line in run("top", study, "-n", 3).splitlines() if line.strip()[0] in "123"
    ]
    assert [line.split()[:2] for line in numbered] == [["1", "69"], ["2", "51"], ["3", "56"]]
    data = json.loads(run("top", study, "-n", 3, "--json"))
    assert [trial["trial"] for trial in data["trials"]] == [69, 51, 56]


@pytest.mark.parametrize("written", ["17", "00017"])
def test_a_trial_may_be_written_as_in_its_folder_s_name(
    study: Path, run: Run, written: str
) -> None:
    assert run("show", written, study).startswith("trial 17 · failed")
    assert json.loads(run("show", written, study, "--json"))["trial"] == 17


@pytest.mark.parametrize("written", ["abc", "1.5", "²", "9" * 30])
def test_what_is_no_trial_number_is_bad_usage(study: Path, run: Run, written: str) -> None:
    with pytest.raises(StudyFileError, match="write its number"):
        run("show", written, study)


def test_an_unknown_trial_is_an_error_that_names_the_range(study: Path, run: Run) -> None:
    with pytest.raises(ScattershotError, match="0 to 71"):
        run("show", 72, study)


def test_export_prints_csv_unless_told_otherwise(study: Path, run: Run) -> None:
    header = run("export", study).splitlines()[0].split(",")
    assert header[:3] == ["trial", "stage", "state"] and "param.lr" in header
    assert run("export", study, "--csv") == run("export", study)
    assert run("export", study, "--history").startswith("trial,epoch,val_accuracy,")
    assert json.loads(run("export", study, "--json"))["study"]["name"] == "digits"


def test_export_writes_a_file(study: Path, run: Run, tmp_path: Path) -> None:
    assert run("export", study, "--out", tmp_path / "digits.csv") == ""
    assert (tmp_path / "digits.csv").read_text() == run("export", study)
    run("export", study, "--out", tmp_path / "digits.json")
    assert (tmp_path / "digits.json").read_text() == run("export", study, "--json")


def test_export_says_why_it_cannot_write(study: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ScattershotError, match="No such file or directory"):
        run("export", study, "--out", tmp_path / "nowhere" / "digits.csv")


def test_json_and_csv_at_once_are_bad_usage(study: Path, run: Run) -> None:
    with pytest.raises(StudyFileError, match="--json"):
        run("export", study, "--json", "--history")


HEAVY = {"numpy", "scipy", "sklearn", "torch", "redis", "rq", "pydantic", "rich", "safetensors"}
HEAVY |= {"jinja2", "tomlkit"}


def imported(call: str, folder: Path) -> set[str]:
    """Return the modules that a command with `folder` has in the end."""
    code = (
        "import sys; from pathlib import Path; from scattershot_master.commands.inspect import *; "
        f"folder = Path(sys.argv[1]); {call}; print('imported', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "call", ["status(folder)", "top(folder)", "show('69', folder)", "diagnose('69', folder)"]
)
def test_looking_imports_nothing_heavy(study: Path, call: str) -> None:
    assert not HEAVY & imported(call, study)


def test_diagnose_imports_what_is_heavy_for_a_forest_alone(study: Path, tmp_path: Path) -> None:
    with_forest = imported("diagnose(None, folder)", study)
    assert "sklearn" in with_forest and "torch" not in with_forest
    ledger = Ledger(tmp_path / "digits")
    Simulation(({"name": "only", "trials": 12, "epochs": 3},)).run(to=ledger)
    ledger.close()
    assert not HEAVY & imported("diagnose(None, folder)", tmp_path)


def test_diagnose_tells_what_holds_for_the_study_and_for_its_trials(study: Path, run: Run) -> None:
    shown = run("diagnose", study)
    assert "\nthe study\n" in shown and "diverge" in shown and "importance lr" in shown
    assert "\ndiverged · " in shown


def test_diagnose_of_a_trial_reads_its_layers(study: Path, run: Run) -> None:
    from scattershot_common.local_files import write
    from scattershot_common.store.layer_stats import LayerStats

    assert "were not recorded" in run("diagnose", "69", study)
    line = {"epoch": 1, "activations": [{"name": "1", "kind": "ReLU", "dead": 0.9}]}
    path = study / "trials" / "00069" / "layers.json"
    write(path, LayerStats([line]).data(), sync=False)
    try:
        for command in ("diagnose", "show"):
            assert "dead_relus 90% of the units of 1 were 0" in run(command, "00069", study)
        data = json.loads(run("diagnose", "69", study, "--json"))
    finally:
        path.unlink()
    assert data["trial"] == 69 and data["layers"] == [line]
    assert data["findings"][0]["rule"] == "dead_relus"


SEEN: dict[str, object] = {
    "epoch": 8,
    "parameters": [
        {"name": "1.weight", "shape": [64, 32], "weight": 12.5, "ratio": 1.5e-3, "grad_rms": 2e-4}
        | {"grads": [0, 3, 9] + [0] * 12},
        {"name": "1.bias", "shape": [64], "weight": 0.0, "ratio": float("nan"), "grad_rms": 0.0},
    ],
    "activations": [
        {"name": "2", "kind": "ReLU", "mean": 0.4, "std": 0.7, "dead": 0.75},
        {"name": "4", "kind": "Tanh", "mean": 0.0, "std": 0.1, "saturated": 0.0},
    ],
    "picture": {"shape": [2, 3, 3, 1], "pixels": "AAECAwQFBgcICQoLDA0ODxAR"},
}


@pytest.fixture
def layered(study: Path) -> Iterator[Path]:
    """The study, with layers of trial 69 that were looked at twice."""
    from scattershot_common.local_files import write
    from scattershot_common.store.layer_stats import LayerStats

    path = study / "trials" / "00069" / "layers.json"
    write(path, LayerStats([{"epoch": 4}, SEEN]).data(), sync=False)
    yield study
    path.unlink()


def test_diagnose_of_a_trial_shows_its_layers(layered: Path, run: Run) -> None:
    lines = run("diagnose", "69", layered).splitlines()
    at = lines.index("layers, as seen at epoch 8")
    assert lines[at + 2].split()[:5] == ["1.weight", "64×32", "12.5", "0.0015", "0.0002"]
    assert lines[at + 2].split()[5] == "·▁█" + "·" * 12
    assert lines[at + 3].split() == ["1.bias", "64", "0", "nan", "0"]
    assert lines[at + 6].split() == ["2", "ReLU", "0.4", "0.7", "75%", "-"]
    assert lines[at + 7].split() == ["4", "Tanh", "0", "0.1", "-", "0%"]


def decoded(png: bytes) -> tuple[int, int, bytes]:
    """Return width, height and grey pixels of a PNG whose lines have no filter."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big")
    lines = zlib.decompress(png[at + 4 : at + 4 + length])
    size = width + 1
    assert all(lines[y * size] == 0 for y in range(height))
    return width, height, b"".join(lines[y * size + 1 : (y + 1) * size] for y in range(height))


@pytest.mark.parametrize(
    "picture",
    [
        {"shape": [2, 3, 3, 1], "pixels": "AAEC"},
        {"shape": [1, 1, 1, 2], "pixels": "AAE="},
        {"pixels": ""},
        "data:image/png;base64,",
        {"shape": [1, 1, 3, 1], "pixels": "?"},
    ],
)
def test_a_damaged_picture_is_none(picture: object) -> None:
    from scattershot_master.figures.first_layer import first_layer_png

    assert first_layer_png([{"picture": picture}]) is None


def test_the_first_weights_are_written_as_a_png(layered: Path, tmp_path: Path, run: Run) -> None:
    run("diagnose", "69", layered, "--picture", tmp_path / "first.png")
    width, height, pixels = decoded((tmp_path / "first.png").read_bytes())
    # two tiles of 3x3, each pixel 21 wide, 10 apart
    assert (width, height) == (63 + 10 + 63, 63)
    rows = [pixels[y * width : (y + 1) * width] for y in range(height)]
    assert rows[0][:63] == b"\0" * 21 + b"\1" * 21 + b"\2" * 21
    assert rows[62][63:] == b"\xff" * 10 + b"\x0f" * 21 + b"\x10" * 21 + b"\x11" * 21
    for trial in ("70", "17"):
        with pytest.raises(ScattershotError, match=f"there is no picture of trial {trial}: one is"):
            run("diagnose", trial, layered, "--picture", tmp_path / "none.png")
    with pytest.raises(StudyFileError, match="--picture needs the number of a trial"):
        run("diagnose", layered, "--picture", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_run_ends_with_the_diagnosis_but_without_a_forest(study: Path, run: Run) -> None:
    findings = json.loads(run("diagnose", study, "--json"))["findings"]
    code = (
        "import sys; from pathlib import Path; from scattershot_master.state.ledger import read;"
        "from scattershot_master.show import layout, study_page; folder = Path(sys.argv[1]);"
        "print(layout.plain_text(study_page.final(read(folder), folder)));"
        "assert 'sklearn' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, study], check=True, capture_output=True, text=True
    ).stdout
    (part,) = [block for block in shown.split("\n\n") if block.startswith("diagnosis\n")]
    for finding in findings:
        lines = f"{finding['rule']} {finding['evidence']}\n  → {finding['remedy']}"
        assert (lines in part) == (finding["rule"] not in ("border", "importance"))
    assert {"rates", "importance"} <= {finding["rule"] for finding in findings}
    assert "\nthe best trial, 69: " in part and "\ntrials with findings: " in part


def test_diagnose_as_json(study: Path, run: Run) -> None:
    data = json.loads(run("diagnose", study, "--json"))
    assert {finding["rule"] for finding in data["findings"]} >= {"rates", "importance"}
    assert data["trials"][0]["trial"] == 69 and "findings" in data["trials"][0]


def test_diagnose_of_a_trial_that_is_not_there_says_so(study: Path, run: Run) -> None:
    with pytest.raises(ScattershotError, match=r"there is no trial 999 .*: it has 0 to 71"):
        run("diagnose", "999", study)
    with pytest.raises(StudyFileError, match="write its number"):
        run("diagnose", study, "69")  # the other way round


def test_diagnose_of_a_trial_that_failed_says_why_and_where_to_look(study: Path, run: Run) -> None:
    shown = run("diagnose", "17", study)
    assert "RuntimeError: mat1" in shown and "scattershot show 17" in shown
    assert "it has no epoch yet" in shown
    data = json.loads(run("diagnose", "17", study, "--json"))
    assert data["state"] == "failed" and data["reason"].startswith("RuntimeError")
    assert data["unseen"] == ["it has no epoch yet"] and data["findings"] == []


def test_every_line_of_evidence_is_followed_by_a_remedy_and_its_source(
    study: Path, run: Run
) -> None:
    lines = run("diagnose", study).splitlines()
    data = json.loads(run("diagnose", study, "--json"))
    for finding in data["findings"]:
        at = lines.index(f"{finding['rule']} {finding['evidence']}")
        assert lines[at + 1] == f"  → {finding['remedy']}  ({finding['source']})"
    remedies = [line for line in lines if "→" in line]
    assert len(remedies) > len(data["findings"])  # those of the trials
    assert all(line.endswith(")") and "  (" in line for line in remedies)


def shown_of(folder: Path, run: Run, *events: tuple[str, dict[str, object]]) -> str:
    """Return the diagnosis of a study of two waiting trials after further events."""
    ledger = Ledger(folder / "small")
    study = Simulation(({"name": "only", "trials": 2, "epochs": 4},), rule="none").study
    dump = study.model_dump(mode="json", by_alias=True)
    ledger.append(event("study", study=dump, uid="u"))
    box = study.space.whole().to_json()
    ledger.append(
        event("stage", stage="only", index=0, target=2, trials=[], box=box, notes=[], epochs=4)
    )
    params = study.space.at([0.5] * len(study.space.axes))
    for number in (0, 1):
        ledger.append(event("sampled", t=number, p=params, epochs=4, until=4))
        ledger.append(event("started", t=number, a=1, w="w"))
    for kind, fields in events:
        ledger.append(event(kind, **fields))
    ledger.close()
    return run("diagnose", folder)


def test_diagnose_of_a_study_without_epochs_says_so(tmp_path: Path, run: Run) -> None:
    shown = shown_of(tmp_path, run)
    assert "2 trials, 0 with epochs\n" in shown and "it has not ended" in shown
    assert "finding" not in shown and "best trial" not in shown
    assert json.loads(run("diagnose", tmp_path, "--json")) == {
        "study": "digits",
        "finished": False,
        "findings": [],
        "trials": [],
    }


def test_diagnose_of_a_study_of_trials_without_a_value_has_no_best_trial(
    tmp_path: Path, run: Run
) -> None:
    nan = {"val_accuracy": float("nan"), "train_loss": float("nan")}
    report = {"a": 1, "n": 1, "m": nan, "f": ""}
    shown = shown_of(tmp_path, run, ("report", {"t": 0, **report}), ("finished", {}))
    assert "trial 0; no trial has a value\ndiverged the loss was nan at epoch 1" in shown
    assert "best" not in shown and "not ended" not in shown


def test_diagnose_of_a_trial_that_says_little_is_no_praise(tmp_path: Path, run: Run) -> None:
    report = {"t": 1, "a": 1, "n": 1, "m": {"val_accuracy": 0.5}, "f": ""}
    failed = {"t": 0, "a": 1, "r": "ValueError: no luck"}
    shown = shown_of(tmp_path, run, ("report", report), ("failed", failed))
    assert "1 failed: scattershot status says why" in shown
    assert "the best trial, 1\nno rule has anything to say; but it has 1 epoch only, and" in shown
    assert "reported no train_loss or val_loss, and its layers were not recorded" in shown
