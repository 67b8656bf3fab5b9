"""Owns how a study's ensemble comes about: candidates read, members chosen, tested once."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scattershot_common.entry_points import program
from scattershot_common.errors import CheckpointError, ScattershotError, StoreUnreachable
from scattershot_common.store.checkpoint_names import resolve
from scattershot_common.store.files import exists, tensors, write_json
from scattershot_master.ensemble import METHODS
from scattershot_master.ensemble.align_predictions import arrange, score_name
from scattershot_master.ensemble.metrics import metric, score
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.ranking import finite
from scattershot_master.state.study_state import StudyState, TrialRecord

Array = np.ndarray[Any, Any]

#: How many of the best trials are looked at: more rarely add a member, and each costs a read.
CANDIDATES = 50
_TEST_FILE = "test.safetensors"


def build(state: StudyState, folder: Path, *, size: int, method: str) -> dict[str, Any]:
    """Choose an ensemble by the validation predictions in the checkpoints; no torch needed.

    Returns the result as it stands in the ledger: members, how they were chosen, and the
    validation score of the best single model beside the ensemble's. `test` is None until
    `test_members` has run.

    Raises:
        ScattershotError: no checkpoint holds predictions, or their store does not answer.
    """
    trials, predictions, targets, notes = _candidates(state, folder)
    if targets is None:
        raise ScattershotError(
            "no ensemble: no checkpoint holds validation predictions (a train function gives "
            "them by trial.report(..., predictions=, targets=))" + "".join(f"; {n}" for n in notes)
        )
    name = score_name(state.metric, next(iter(predictions.values())), targets)
    predictions, targets = arrange(name, predictions, targets)
    selection = METHODS[method](predictions, targets, name, size)
    single = {
        number: score(name, one, targets)
        for number, one in predictions.items()
        if np.isfinite(one).all()  # as for a member
    }
    pick = max if metric(name).larger_is_better else min
    best = pick(single, key=lambda number: single[number])
    return {
        "method": method,
        "score_name": name,
        "members": [
            {
                "trial": number,
                "weight": weight,
                "epoch": trials[number].best_epoch,
                "checkpoint": trials[number].best_checkpoint,
                "value": trials[number].best_value,
                "gain": selection.gains[number],
            }
            for number, weight in selection.members.items()
        ],
        "validation": {
            "best_single": single[best],
            "best_single_trial": best,
            "ensemble": selection.score,
        },
        "test": None,
        "note": "; ".join([*notes, *selection.notes]),
    }


def _candidates(
    state: StudyState, folder: Path
) -> tuple[dict[int, TrialRecord], dict[int, Array], Array | None, list[str]]:
    checkpoints = state.checkpoints(folder)
    trials: dict[int, TrialRecord] = {}
    predictions: dict[int, Array] = {}
    targets: Array | None = None
    shape: tuple[int, ...] = ()
    notes: list[str] = []
    for trial in finite(state):
        if len(predictions) >= CANDIDATES:
            break
        if not trial.best_checkpoint:
            continue
        try:
            path = resolve(checkpoints, trial.number, trial.best_checkpoint)
            if not exists(path):
                continue
            found = tensors(path, ("predictions", "targets"))
        except StoreUnreachable:
            raise
        except CheckpointError as error:
            notes.append(str(error))
            continue
        if "predictions" not in found or "targets" not in found:
            continue
        if targets is None:
            targets, shape = found["targets"], found["predictions"].shape
        elif not np.array_equal(targets, found["targets"]):
            notes.append(f"trial {trial.number} was validated on other data: left out")
            continue
        elif found["predictions"].shape != shape:
            notes.append(f"trial {trial.number} predicts in another shape: left out")
            continue
        trials[trial.number], predictions[trial.number] = trial, found["predictions"]
    return trials, predictions, targets, notes


def test_members(
    state: StudyState,
    folder: Path,
    ensemble: Mapping[str, Any],
    *,
    data: str | None,
    paths: Sequence[Path],
    threads: int,
) -> dict[str, Any]:
    """Run the ensemble and the best single model over the test part, once; return the result.

    A worker process does it, since it takes torch and the task's code. Where it cannot, the
    result says why in "note" and "test" stays None.
    """
    single = ensemble["validation"]["best_single_trial"]
    numbers = list(dict.fromkeys([*(m["trial"] for m in ensemble["members"]), single]))
    out = folder / "ensemble" / _TEST_FILE
    checkpoints = state.checkpoints(folder.resolve())
    request = {
        "task": state.settings.task,
        "data": data,
        "paths": [str(path.resolve()) for path in paths],
        "threads": threads,
        "out": str(out.resolve()),
        "models": [
            {
                "trial": number,
                "params": state.trials[number].params,
                "checkpoint": str(
                    resolve(checkpoints, number, state.trials[number].best_checkpoint)
                ),
            }
            for number in numbers
        ],
    }
    if error := _ask_worker(request):
        return _untested(ensemble, error)
    found = tensors(out, "")
    try:
        return {**ensemble, "test": _scores(ensemble, found)}
    except ScattershotError as refused:
        return _untested(ensemble, str(refused))


def _untested(ensemble: Mapping[str, Any], why: str) -> dict[str, Any]:
    note = f"not tested: {why}"
    return {**ensemble, "note": "; ".join(filter(None, [ensemble.get("note"), note]))}


def _scores(ensemble: Mapping[str, Any], found: Mapping[str, Array]) -> dict[str, Any]:
    """Return how the ensemble and the best single model score on what a worker `found`."""
    name, single = ensemble["score_name"], ensemble["validation"]["best_single_trial"]
    weights = {member["trial"]: member["weight"] for member in ensemble["members"]}
    raw = {trial: found[f"predictions/{trial}"] for trial in {single, *weights}}
    each, targets = arrange(name, raw, found["targets"])
    stacked = np.stack([each[trial] for trial in weights])
    shares = np.array([*weights.values()], dtype=np.float64)
    mean = np.tensordot(shares / shares.sum(), stacked, axes=1)
    return {
        "best_single": score(name, each[single], targets),
        "best_single_trial": single,
        "ensemble": score(name, mean, targets),
        "examples": len(found["targets"]),
    }


def _ask_worker(request: Mapping[str, Any]) -> str:
    """Return what went wrong, or "" if the answer is in the request's `out` file."""
    if importlib.util.find_spec("torch") is None:
        return (
            "torch is not installed where the master runs; run `scattershot ensemble eval` "
            "on a worker's machine"
        )
    process = subprocess.run(
        program("evaluate"),
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    lines = process.stdout.strip().splitlines()
    try:
        answer = dict(json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        tail = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        return tail[0]
    return str(answer.get("error", ""))


def keep(ledger: Ledger, ensemble: dict[str, Any]) -> None:
    """Write the result down: in the ledger first, then as `ensemble/ensemble.json` for people.

    Raises:
        ScattershotError: the disk refuses.
    """
    ledger.append("ensemble", ensemble=ensemble)
    ledger.commit(sync=True)
    write_json(ledger.folder / "ensemble" / "ensemble.json", ensemble)
