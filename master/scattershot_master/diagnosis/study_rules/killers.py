"""The rules on killers: which would have ended the best trial, and what the others would save."""

from __future__ import annotations

from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.study_rules.killer_replay import (
    KillerReplay,
    ReplayedKill,
    replay,
)
from scattershot_master.diagnosis.study_rules.noise import noise_size
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.killers import KILLERS
from scattershot_master.killers.make_killers import build, stage_killers
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState
from scattershot_master.text import number, percent

#: With fewer trials it is chance which of them a killer ends.
_MIN_TRIALS = 8
#: The part of the epochs trained from which on savings are worth mentioning.
_WORTH = 0.01
_SOURCE = "Hyperparameter optimization"


def killed_winner(study: StudyCase) -> list[Finding]:
    """Find that the study's own killers ended the best trial early, or would have in step."""
    state = study.state
    settings = state.settings
    if not _conclusive(study) or not any(settings.rules(stage.index) for stage in state.stages):
        return []
    winner = finite(state)[0]
    if winner.state == "killed" and winner.best_epoch == winner.done and _by_rule(winner.reason):
        kill = ReplayedKill(winner.stage, winner.done, winner.reason)
        evidence = (
            f"the best trial, {winner.number}, was killed at {_where(kill)}, where its value "
            f"was its best so far ({kill.reason})"
        )
    else:
        own = {stage.index: stage_killers(settings, stage.index) for stage in state.stages}
        replayed = replay(state, own)
        if not _harmful(state, replayed, noise_size(study)):
            return []
        kill = replayed.killed[winner.number]
        evidence = (
            f"with all its peers there, the best trial, {winner.number}, would have been killed "
            f"at {_where(kill)} ({kill.reason}); the best value would have been "
            f"{number(state.objective.score(replayed.best))} instead of {number(winner.best_value)}"
        )
    remedy = (
        f"raise [kill] grace above {kill.epoch}, or take a milder rule: early values tell "
        "little here"
    )
    return [Finding("killed_winner", evidence, remedy, _SOURCE)]


def killers(study: StudyCase) -> list[Finding]:
    """Find what each built-in killer, alone and with the options of [kill], would have done.

    Left out is one that the study itself used, alone and throughout.
    """
    state, settings = study.state, study.state.settings
    if not _conclusive(study):
        return []
    winner, noise = finite(state)[0].number, noise_size(study)
    kills, savings = dict[str, ReplayedKill](), dict[str, float]()
    for rule in KILLERS:
        if all(settings.rules(stage.index) == (rule,) for stage in state.stages):
            continue
        killer = build([rule], settings.kill.options, objective=state.objective)
        alone = {stage.index: killer for stage in state.stages}
        replays = [replay(state, alone), replay(state, alone, together=False)]
        saved = replays[-1].saved / max(replays[-1].trained, 1)
        harmful = next((result for result in replays if _harmful(state, result, noise)), None)
        if harmful:
            kills[rule] = harmful.killed[winner]
        elif saved > _WORTH:
            savings[rule] = saved
    if not kills and not savings:
        return []
    evidence = []
    if kills:
        names = ", ".join(f"{rule} ({_where(kill)})" for rule, kill in kills.items())
        evidence.append(f"the best trial, {winner}, would have been killed by {names}")
    if savings:
        ordered = sorted(savings, key=lambda rule: -savings[rule])
        names = ", ".join(f"{rule} ({percent(savings[rule])})" for rule in ordered)
        evidence.append(
            "as good a value would have been kept, with about this part of the epochs saved, by "
            f"{names}"
        )
        remedy = f'[kill] rule = "{ordered[0]}" would have saved most and kept as good a value'
    else:
        latest = max(kill.epoch for kill in kills.values())
        remedy = f"of these rules take none with [kill] grace below {latest + 1}"
    return [Finding("killers", "; ".join(evidence), remedy, _SOURCE)]


def _conclusive(study: StudyCase) -> bool:
    """Return whether there are enough trials, and a best one that says something."""
    return len(study.cases) >= _MIN_TRIALS and bool(finite(study.state)) and not study.all_diverged


def _harmful(state: StudyState, replayed: KillerReplay, noise: float) -> bool:
    """Return whether the best value was lost, by more than noise.

    It is kept where the best trial is killed after its best epoch, or another one is as good.
    """
    lost = state.objective.score(finite(state)[0].best_value) - replayed.best
    return lost > 0 and lost > noise


def _by_rule(reason: str) -> bool:
    """Return whether the reason for a kill is a killer's, and not the user's."""
    return reason.partition(" rule")[0] in KILLERS


def _where(kill: ReplayedKill) -> str:
    return f"epoch {kill.epoch} of stage {kill.stage}"
