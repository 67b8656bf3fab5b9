"""The commands `kill` and `stop`, for a study that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattershot_common.bus.connection import URL_VARIABLE, connect, reach, url_from
from scattershot_common.bus.outcome import StopReason
from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_master.commands.study_folder import study_folder

if TYPE_CHECKING:
    from scattershot_common.bus.trial_state import TrialStates

_FOLDER_HELP = "The study's folder (default: the newest under checkpoints/)."
_FOLDER = typer.Option(help=_FOLDER_HELP)
#: The state of a trial after `kill`, by the state before; any other state stays.
_AFTER = {"running": "stopping", "waiting": "killed", "paused": "killed"}
_JSON = typer.Option("--json", help="Print JSON.")
_REDIS = typer.Option(help=f"Redis URL, if it is not the study's embedded one; or {URL_VARIABLE}.")


def kill(
    trials: Annotated[list[str], typer.Argument(help="Trial numbers.", show_default=False)],
    folder: Annotated[Path | None, _FOLDER] = None,
    redis: Annotated[str | None, _REDIS] = None,
    reason: Annotated[str, typer.Option(help="Shown with the trial.")] = "by hand",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """End trials on purpose; their checkpoints stay."""
    from scattershot_master.search.redis_study import stop_trial

    numbers = [_number(text) for text in trials]
    states = _states(folder, redis)
    before = {number: stop_trial(states, number, StopReason.KILL, reason) for number in numbers}
    # a trial that runs is told to stop; one that waits is killed with that
    now = {number: _AFTER.get(state, state) for number, state in before.items()}
    if as_json:
        listed = [{"trial": number, "state": state} for number, state in now.items()]
        print(json.dumps({"study": states.keys.study, "trials": listed}))
    else:
        for number, state in now.items():
            if before[number] in _AFTER:
                print(f"trial {number}: {state}")
            elif state != "gone":
                print(f"trial {number}: it is {state} already")
    unknown = [number for number, state in now.items() if state == "gone"]
    if unknown:
        names = ", ".join(map(str, unknown))
        raise ScattershotError(f"no such trial in the study now: {names}")


def stop(
    folder: Annotated[Path | None, typer.Argument(help=_FOLDER_HELP)] = None,
    redis: Annotated[str | None, _REDIS] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Stop a running study cleanly; running it again goes on where it was."""
    states = _states(folder, redis)
    ask_to_stop(states)
    if as_json:
        print(json.dumps({"study": states.keys.study, "state": "stopping"}))
    else:
        print(f"{states.keys.study}: stopping; its running trials are given back")


def ask_to_stop(states: TrialStates) -> None:
    """Ask the study's master to stop: this one, not the next, should it be dead already.

    Raises:
        ScattershotError: it has none.
    """
    master = states.connection.get(states.keys.master)
    if master is None:
        raise ScattershotError(f"no master runs the study {states.keys.study!r}")
    states.connection.xadd(states.keys.events, {"e": "stop", "t": "0", "w": master})


def _states(given: Path | None, redis: str | None) -> TrialStates:
    from scattershot_common.bus.server import running_url
    from scattershot_common.bus.trial_state import TrialStates

    folder = study_folder(given)
    url = url_from(redis) or running_url(folder / "redis")
    if url is None:
        raise ScattershotError(
            f"no master runs the study in {folder} with an embedded Redis; "
            f"name the Redis it uses: --redis URL, or {URL_VARIABLE}"
        )
    connection = connect(url)
    reach(connection, url)
    return TrialStates(connection, folder.name)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise StudyFileError(f"{text!r} is not a trial's number")
    return int(text)
