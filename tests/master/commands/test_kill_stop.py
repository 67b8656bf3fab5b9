import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from scattershot_common.bus.connection import connect
from scattershot_common.bus.stream import EventStream
from scattershot_common.bus.trial_state import TrialStates
from scattershot_master.commands import kill_stop
from scattershot_master.state.ledger import Ledger

Run = Callable[..., Result]


@pytest.fixture
def states(redis_url: str) -> TrialStates:
    """A study of which trial 0 waits, 1 runs, 2 is complete, and no more are known."""
    states = TrialStates(connect(redis_url), "small")
    for trial in range(3):
        states.submit(trial, 4)
    states.claim(1, 1, "w1")
    states.claim(2, 1, "w1")
    states.connection.hset(states.keys.trial(2), "state", "complete")
    return states


@pytest.fixture
def run(redis_url: str, tmp_path: Path, states: TrialStates) -> Run:
    folder = tmp_path / states.keys.study
    Ledger(folder).close()
    app = typer.Typer()
    app.command()(kill_stop.kill)
    app.command()(kill_stop.stop)

    def invoke(command: str, *arguments: object) -> Result:
        where = ["--folder", folder] if command == "kill" else [folder]
        words = [command, *arguments, *where, "--redis", redis_url]
        return CliRunner().invoke(app, [str(one) for one in words])

    return invoke


def test_kill_tells_what_becomes_of_each_trial(run: Run) -> None:
    done = run("kill", 0, 1, 2)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "trial 0: killed",
        "trial 1: stopping",
        "trial 2: it is complete already",
    ]
    assert run("kill", 0).stdout == "trial 0: it is killed already\n"


def test_kill_tells_the_same_as_json(run: Run, states: TrialStates) -> None:
    done = run("kill", 0, 1, 2, "--json")
    assert json.loads(done.stdout) == {
        "study": "small",
        "trials": [
            {"trial": 0, "state": "killed"},
            {"trial": 1, "state": "stopping"},
            {"trial": 2, "state": "complete"},
        ],
    }
    assert states.connection.hget(states.keys.trial(1), "signal") == "kill"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_trial_that_is_not_there_is_an_error_after_the_others_are_killed(
    run: Run, states: TrialStates, form: list[str]
) -> None:
    done = run("kill", 9, 0, *form)
    assert str(done.exception) == "no such trial in the study now: 9"
    assert states.connection.hget(states.keys.trial(0), "state") == "killed"
    if form:
        listed = json.loads(done.stdout)["trials"]
        assert listed == [{"trial": 9, "state": "gone"}, {"trial": 0, "state": "killed"}]
    else:
        assert done.stdout == "trial 0: killed\n"


def test_stop_asks_the_master_and_tells_so_in_words_or_json(run: Run, states: TrialStates) -> None:
    assert str(run("stop", "--json").exception) == "no master runs the study 'small'"
    states.connection.set(states.keys.master, "this one")
    assert run("stop").stdout.startswith("small: stopping; ")
    assert json.loads(run("stop", "--json").stdout) == {"study": "small", "state": "stopping"}
    events = EventStream(states.connection, "small").read("", block_ms=None)
    assert [(one.kind, one.worker) for one in events if one.kind == "stop"] == [
        ("stop", "this one")
    ] * 2
