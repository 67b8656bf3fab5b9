"""Reading of what the rules see: trials in the ledger's state, and the files of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.store.local import LocalStore
from scattershot_common.store.store import Store
from scattershot_master.diagnosis.diagnose import diagnose_among
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import TrialCase
from scattershot_master.state.progress import ranked
from scattershot_master.state.study_state import StudyState, TrialRecord

#: In a study of more trials, only the layers of the best and the worst ones are read.
_LAYERS_READ = 64


def trial_case(
    state: StudyState, trial: TrialRecord, layers: Sequence[Mapping[str, Any]] = ()
) -> TrialCase:
    """Return a trial as the rules see it; `layers` are the records of its layers' file."""
    return TrialCase(trial.history, layers, trial.params, state.objective)


def read_trial_case(state: StudyState, trial: TrialRecord, checkpoints: Store) -> TrialCase:
    """Return a trial as the rules see it; raises CheckpointError where the store cannot be read."""
    return trial_case(state, trial, LayerStats.read(checkpoints, trial.number).lines)


def read_study_case(state: StudyState, folder: Path) -> StudyCase:
    """Return a study as the rules see it; `folder` is the study's.

    Raises CheckpointError where its store cannot be used. Layers in an object store are not read:
    each trial's would cost a request.
    """
    trials = [trial for trial in ranked(state) if trial.history]
    half = _LAYERS_READ // 2
    recorded = trials if len(trials) <= _LAYERS_READ else trials[:half] + trials[-half:]
    layers = {}
    if not state.store:
        store = LocalStore(folder)
        layers = {trial.number: LayerStats.read(store, trial.number).lines for trial in recorded}
    cases = {
        trial.number: trial_case(state, trial, layers.get(trial.number, ())) for trial in trials
    }
    findings = {number: diagnose_among(case, cases) for number, case in cases.items()}
    return StudyCase(state, cases, findings)
