"""`recover`: restores a study's ledger, and what Redis must know of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattershot_common.bus.connection import URL_VARIABLE, safe_url, url_from
from scattershot_common.errors import ScattershotError

if TYPE_CHECKING:
    from scattershot_master.state.study_state import StudyState


def recover(
    folder: Annotated[Path, typer.Argument(help="The study's folder.", show_default=False)],
    redis: Annotated[
        str | None,
        typer.Option(help=f"Redis URL, if the study uses one of its own; or {URL_VARIABLE}."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring back a study whose ledger or whose data in Redis is lost.

    A damaged ledger is moved aside and written anew from its sound lines, study.toml and the
    checkpoints. Redis is given again what it must know. Nothing is deleted.
    """
    from scattershot_master.recovery.recover import read_sound_ledger
    from scattershot_master.recovery.recover import recover as recover_ledger

    result: dict[str, Any] = {"ledger": "sound", "moved": [], "notes": [], "redis": None}
    state = read_sound_ledger(folder)
    if state is None:
        rebuilt, moved = recover_ledger(folder)
        state = rebuilt.state
        result |= {"ledger": "rebuilt", "moved": [str(path) for path in moved]}
        result["notes"] = rebuilt.notes
    result["trials"] = len(state.trials)
    result["epochs"] = sum(len(trial.history) for trial in state.trials.values())
    if url := url_from(redis):
        result["redis"] = {"url": safe_url(url), **_restore(folder, url)}
    print(json.dumps(result) if as_json else "\n".join(_lines(folder, state, result)))


def _lines(folder: Path, state: StudyState, result: dict[str, Any]) -> list[str]:
    from scattershot_master.text import plural

    trials, epochs = plural(result["trials"], "trial"), plural(result["epochs"], "epoch")
    if result["ledger"] == "sound":
        lines = [f"the ledger is sound: {trials} with {epochs}; it is left as it is"]
    else:
        lines = [f"recovered {trials} with {epochs}"]
        living = state.living
        lines += [f"{plural(living, 'trial')} of them can go on"] if living else []
        lines += [f"moved aside: {path}" for path in result["moved"]]
    lines += [f"note: {note}" for note in result["notes"]]
    if result["redis"] is None:
        lines.append(
            "Redis gets what it must know when the study is run again; if it uses a Redis of its "
            f"own, first: scattershot recover {folder} --redis URL"
            if result["ledger"] == "rebuilt"
            else "Redis was not looked at (no --redis): the next run gives it what it must know"
        )
    else:
        before = result["redis"]
        said = "had lost the study" if before["lost"] else "knows the study"
        if before["namesake"]:
            said = "knew the study from before its recovery, and has forgotten that"
        lines.append(
            f"Redis at {before['url']} {said}; {plural(before['living'], 'trial')} to train"
        )
    lines.append(f"What there is: scattershot status {folder}")
    return lines


def _restore(folder: Path, url: str) -> dict[str, Any]:
    """Publish the study in Redis again; return what Redis knew of it before."""
    from scattershot_common.bus.connection import reach
    from scattershot_common.bus.study_info import info_of
    from scattershot_common.study.settings import StudyFile
    from scattershot_master.recovery.recover import was_recovered
    from scattershot_master.search.redis_study import RedisStudy
    from scattershot_master.search.search import Search
    from scattershot_master.state.ledger import Ledger

    ledger = Ledger(folder)
    try:
        study = StudyFile.model_validate(ledger.state.settings.recorded)
        if study.study.name != folder.resolve().name:
            raise ScattershotError(
                f"the folder of the study {study.study.name!r} was renamed; give it its name back"
            )
        redis_study = RedisStudy(
            url, info_of(ledger.state.settings, ledger.state.uid, study.study.data)
        )
        reach(redis_study.connection, url)
        namesake = was_recovered(folder) and redis_study.forget_namesake()
        lost = not redis_study.published()
        redis_study.take()
        try:
            Search(ledger, redis_study).restore()
        finally:
            redis_study.release()
        return {"lost": lost, "namesake": namesake, "living": ledger.state.living}
    finally:
        ledger.close()
