"""A study's ensemble: its candidates are read, its members chosen and tested, once."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scattershot_common.entry_points import program
from scattershot_common.errors import CheckpointError, ScattershotError, StoreUnreachable
from scattershot_common.local_files import write_json
from scattershot_common.store.checkpoint_names import checkpoint_key
from scattershot_common.store.local import LocalStore
from scattershot_master.ensemble import METHODS
from scattershot_master.ensemble.metrics import Array, align, fitting_metric, metric, score
from scattershot_master.state.events import EnsembleBuilt
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState, TrialRecord

#: The number of the best trials that are read: more rarely add a member, and each costs a read.
CANDIDATES = 50
_TEST_FILE = "test.safetensors"


def build_ensemble(state: StudyState, folder: Path, *, size: int, method: str) -> dict[str, Any]:
    """Choose an ensemble by the validation predictions in the checkpoints; no torch needed.

    Returns the result as it stands in the ledger: members, how they were chosen, and the
    validation score of the best single model beside the ensemble's. `test` is None until
    `evaluate_on_test_part` has run.

    Raises:
        ScattershotError: no checkpoint holds predictions, or their store does not answer.
    """
    candidates = _read_candidates(state, folder)
    trials, notes = candidates.trials, candidates.notes
    if candidates.targets is None:
        raise ScattershotError(
            "no ensemble: no checkpoint holds validation predictions (a train function gives "
            "them by trial.report(..., predictions=, targets=))" + "".join(f"; {n}" for n in notes)
        )
    first = next(iter(candidates.predictions.values()))
    name = fitting_metric(state.objective.metric, first, candidates.targets)
    predictions, targets = align(name, candidates.predictions, candidates.targets)
    selection = METHODS[method](predictions, targets, name, size)
    single = {
        number: score(name, array, targets)
        for number, array in predictions.items()
        if np.isfinite(array).all()  # as for a member
    }
    objective = metric(name).objective
    best = max(single, key=lambda number: objective.score(single[number]))
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


@dataclass
class _Candidates:
    """Trials, best first, and their validation predictions, all on the same targets."""

    trials: dict[int, TrialRecord] = field(default_factory=dict)
    predictions: dict[int, Array] = field(default_factory=dict)
    targets: Array | None = None
    #: Sentences on trials that were left out.
    notes: list[str] = field(default_factory=list)


def _read_candidates(state: StudyState, folder: Path) -> _Candidates:
    """Read the predictions of the best trials; raises StoreUnreachable."""
    checkpoints = state.checkpoints(folder)
    candidates = _Candidates()
    shape: tuple[int, ...] = ()
    for trial in finite(state):
        if len(candidates.predictions) >= CANDIDATES:
            break
        if not trial.best_checkpoint:
            continue
        try:
            key = checkpoint_key(trial.number, trial.best_checkpoint)
            if not checkpoints.exists(key):
                continue
            arrays = checkpoints.tensors(key, ("predictions", "targets"))
        except StoreUnreachable:
            raise
        except CheckpointError as error:
            candidates.notes.append(str(error))
            continue
        if "predictions" not in arrays or "targets" not in arrays:
            continue
        predictions, targets = arrays["predictions"], arrays["targets"]
        if candidates.targets is None:
            candidates.targets, shape = targets, predictions.shape
        elif not np.array_equal(candidates.targets, targets):
            candidates.notes.append(f"trial {trial.number} was validated on other data: left out")
            continue
        elif predictions.shape != shape:
            candidates.notes.append(f"trial {trial.number} predicts in another shape: left out")
            continue
        candidates.trials[trial.number] = trial
        candidates.predictions[trial.number] = predictions
    return candidates


def evaluate_on_test_part(
    state: StudyState,
    folder: Path,
    ensemble: Mapping[str, Any],
    *,
    data: str | None,
    paths: Sequence[Path],
    threads: int,
) -> dict[str, Any]:
    """Run the ensemble and the best single model over the test part, once; return the result.

    A worker process does it, since it takes torch and the task's code. Where that fails, the
    result says why in "note" and "test" stays None.
    """
    single = ensemble["validation"]["best_single_trial"]
    numbers = list(dict.fromkeys([*(m["trial"] for m in ensemble["members"]), single]))
    out = folder / "ensemble" / _TEST_FILE
    request = {
        "task": state.settings.task,
        "data": data,
        "paths": [str(path.resolve()) for path in paths],
        "threads": threads,
        "out": str(out.resolve()),
        "store": state.checkpoints(folder.resolve()).address,
        "models": [
            {
                "trial": number,
                "params": state.trials[number].params,
                "checkpoint": checkpoint_key(number, state.trials[number].best_checkpoint),
            }
            for number in numbers
        ],
    }
    if error := _run_worker(request):
        return _untested(ensemble, error)
    outputs = LocalStore(out.parent).tensors(out.name, "")
    try:
        return {**ensemble, "test": _test_scores(ensemble, outputs)}
    except ScattershotError as refusal:
        return _untested(ensemble, str(refusal))


def _untested(ensemble: Mapping[str, Any], reason: str) -> dict[str, Any]:
    note = f"not tested: {reason}"
    return {**ensemble, "note": "; ".join(filter(None, [ensemble.get("note"), note]))}


def _test_scores(ensemble: Mapping[str, Any], outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the scores of the ensemble and the best single model, by a worker's `outputs`."""
    name, single = ensemble["score_name"], ensemble["validation"]["best_single_trial"]
    weights = {member["trial"]: member["weight"] for member in ensemble["members"]}
    raw = {trial: outputs[f"predictions/{trial}"] for trial in {single, *weights}}
    predictions, targets = align(name, raw, outputs["targets"])
    stacked = np.stack([predictions[trial] for trial in weights])
    shares = np.array([*weights.values()], dtype=np.float64)
    mean = np.tensordot(shares / shares.sum(), stacked, axes=1)
    return {
        "best_single": score(name, predictions[single], targets),
        "best_single_trial": single,
        "ensemble": score(name, mean, targets),
        "examples": len(outputs["targets"]),
    }


def _run_worker(request: Mapping[str, Any]) -> str:
    """Return what went wrong, or "" if the outputs are in the request's `out` file."""
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


def record_ensemble(ledger: Ledger, ensemble: dict[str, Any]) -> None:
    """Record the result in the ledger, then in `ensemble/ensemble.json` for people.

    Raises:
        ScattershotError: it cannot be written.
    """
    ledger.append(EnsembleBuilt(ensemble))
    ledger.commit(sync=True)
    write_json(ledger.folder / "ensemble" / "ensemble.json", ensemble)
