"""Owns the rules on killers: which would have done harm, and what the others would save."""

from __future__ import annotations

from scattershot_master.diagnosis.study.killer_replay import Killing, Replay, replay
from scattershot_master.diagnosis.study.noise import noise_of
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding, number, percent
from scattershot_master.killers import KILLERS
from scattershot_master.killers.build import build, stage_killers
from scattershot_master.state.ranking import finite
from scattershot_master.state.study_state import StudyState

#: Trials below which it is chance whom a killer meets.
_TRIALS = 8
#: A part of the epochs trained that is worth to be told.
_WORTH = 0.01
_SOURCE = "Hyperparameter optimization"


def killed_winner(study: StudyCase) -> list[Finding]:
    """Find that the study's own killers ended the best trial early, or would have in step."""
    state = study.state
    if not _telling(study) or not any(state.settings.rules(stage.index) for stage in state.stages):
        return []
    winner = finite(state)[0]
    if winner.state == "killed" and winner.best_epoch == winner.done and _by_rule(winner.reason):
        killing = Killing(winner.stage, winner.done, winner.reason)
        told = f"the best trial, {winner.number}, was killed at {_where(killing)}, where its value "
        told += f"was its best so far ({killing.reason})"
    else:
        settings = state.settings
        own = {stage.index: stage_killers(settings, stage.index) for stage in state.stages}
        replayed = replay(state, own)
        if not _harmed(state, replayed, noise_of(study)):
            return []
        killing = replayed.killed[winner.number]
        told = f"with all its peers there, the best trial, {winner.number}, would have been killed "
        told += f"at {_where(killing)} ({killing.reason}); the best value would have been "
        told += f"{number(replayed.kept * state.sign)} instead of {number(winner.best_value)}"
    remedy = f"raise [kill] grace above {killing.epoch}, or take a milder rule: early values tell "
    return [Finding("killed_winner", told, f"{remedy}little here", _SOURCE)]


def other_killers(study: StudyCase) -> list[Finding]:
    """Tell of each built-in killer, alone and with the options of [kill], what it would have done.

    Left out is one that the study itself used, alone and throughout.
    """
    state = study.state
    if not _telling(study):
        return []
    winner, noise = finite(state)[0].number, noise_of(study)
    kills, spares = dict[str, Killing](), dict[str, float]()
    for rule in KILLERS:
        if all(state.settings.rules(stage.index) == (rule,) for stage in state.stages):
            continue
        killers = dict.fromkeys(
            (stage.index for stage in state.stages),
            build([rule], state.settings.kill.options, objective=state.objective),
        )
        replays = [replay(state, killers), replay(state, killers, together=False)]
        saved = replays[-1].saved / max(replays[-1].trained, 1)
        if harmful := next((one for one in replays if _harmed(state, one, noise)), None):
            kills[rule] = harmful.killed[winner]
        elif saved > _WORTH:
            spares[rule] = saved
    if not kills and not spares:
        return []
    told = []
    if kills:
        named = ", ".join(f"{rule} ({_where(killing)})" for rule, killing in kills.items())
        told.append(f"the best trial, {winner}, would have been killed by {named}")
    if spares:
        ordered = sorted(spares, key=lambda rule: -spares[rule])
        named = ", ".join(f"{rule} ({percent(spares[rule])})" for rule in ordered)
        told.append(
            "as good a value would have been kept, with about so much of the epochs saved, by "
            f"{named}"
        )
        remedy = f'[kill] rule = "{ordered[0]}" would have saved most and kept as good a value'
    else:
        latest = max(killing.epoch for killing in kills.values())
        remedy = f"of these rules take none with [kill] grace below {latest + 1}"
    return [Finding("killers", "; ".join(told), remedy, _SOURCE)]


def _telling(study: StudyCase) -> bool:
    """Return whether there are trials enough, and a best one that says something."""
    return len(study.cases) >= _TRIALS and bool(finite(study.state)) and not study.hopeless


def _harmed(state: StudyState, replayed: Replay, noise: float) -> bool:
    """Return whether the best value was lost, by more than noise.

    It is kept where the best trial is killed after its best epoch, or another one is as good.
    """
    lost = finite(state)[0].best_value * state.sign - replayed.kept
    return lost > 0 and lost > noise


def _by_rule(reason: str) -> bool:
    """Return whether a killer wrote this, and not the user."""
    return reason.partition(" rule")[0] in KILLERS


def _where(killing: Killing) -> str:
    return f"epoch {killing.epoch} of stage {killing.stage}"
