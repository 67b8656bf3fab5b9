"""Owns the rules on killers: which would have killed the winner, and what the others would save."""

from __future__ import annotations

from collections.abc import Sequence

from scattershot_master.board import Board, StageRecord
from scattershot_master.diagnosis.case import Finding, percent
from scattershot_master.diagnosis.study.case import StudyCase
from scattershot_master.diagnosis.study.replay import replay
from scattershot_master.killers import KILLERS
from scattershot_master.killers.base import Killer
from scattershot_master.killers.rules import build
from scattershot_master.ranking import finite

#: A part of the epochs trained that is worth to be told.
_WORTH = 0.01
_SOURCE = "Hyperparameter optimization"


def killed_winner(study: StudyCase) -> list[Finding]:
    """Find that the study's own killers would have killed the best trial, had all been in step."""
    board = study.board
    ranking = finite(board)
    if len(ranking) < 2 or study.hopeless or not any(_own(board, stage) for stage in board.stages):
        return []
    winner = ranking[0].number
    own = {stage.index: _built(board, _own(board, stage)) for stage in board.stages}
    killing = replay(board, own).killed.get(winner)
    if killing is None:
        return []
    return [
        Finding(
            "killed_winner",
            f"with all its peers there, the best trial, {winner}, would have been killed at epoch "
            f"{killing.epoch} of stage {killing.stage} ({killing.reason})",
            f"raise [kill] grace above {killing.epoch}, or take a milder rule: early values tell "
            "little here",
            _SOURCE,
        )
    ]


def other_killers(study: StudyCase) -> list[Finding]:
    """Tell of each built-in killer, alone and with the options of [kill], what it would have done.

    Left out is one that the study itself used, alone and throughout.
    """
    board = study.board
    ranking = finite(board)
    if len(ranking) < 2 or study.hopeless:
        return []
    winner, kills, spares = ranking[0].number, list[str](), dict[str, float]()
    latest = 0
    for rule in KILLERS:
        if all(_own(board, stage) == [rule] for stage in board.stages):
            continue
        killers = _built(board, [rule])
        replayed = replay(board, {stage.index: killers for stage in board.stages})
        if killing := replayed.killed.get(winner):
            kills.append(f"{rule} (epoch {killing.epoch} of stage {killing.stage})")
            latest = max(latest, killing.epoch)
        elif replayed.saved > _WORTH * replayed.trained:
            spares[rule] = replayed.saved / replayed.trained
    if not kills and not spares:
        return []
    told = [f"been killed by {', '.join(kills)}"] if kills else []
    if spares:
        ordered = sorted(spares, key=lambda rule: -spares[rule])
        named = ", ".join(f"{rule} ({percent(spares[rule])})" for rule in ordered)
        told.append(f"survived, with so much of the epochs saved, {named}")
        remedy = f'[kill] rule = "{ordered[0]}" would have saved most and kept the best trial'
    else:
        remedy = f"of these rules take none with [kill] grace below {latest + 1}"
    evidence = f"the best trial, {winner}, would have {'; it would have '.join(told)}"
    return [Finding("killers", evidence, remedy, _SOURCE)]


def _own(board: Board, stage: StageRecord) -> list[str]:
    """Return the names of the killers that held in a stage."""
    rules = board.study["stage"][stage.index].get("kill")
    return list(board.study.get("kill", {}).get("rule", ()) if rules is None else rules)


def _built(board: Board, rules: Sequence[str]) -> list[Killer]:
    options = {name: one for name, one in board.study.get("kill", {}).items() if name != "rule"}
    return build(rules, options, minimize=board.goal == "minimize")
