"""A study's killers together: built from its settings, judged as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from scattershot_common.objective import Objective
from scattershot_common.study.recorded_settings import StudySettings
from scattershot_master.killers import KILLERS
from scattershot_master.killers.killer import GO_ON, OBJECTIVE, Curve, Killer, Peers, Verdict


def build(
    rules: Sequence[str],
    options: Mapping[str, float | int],
    *,
    objective: Objective = OBJECTIVE,
) -> list[Killer]:
    """Return the killers that `rules` names, each with those of `options` that it takes.

    `options` are checked already (`settings.Kill`).

    >>> build(["median", "diverged"], {"grace": 2, "factor": 5.0})  # doctest: +ELLIPSIS
    [Median(grace=2, ..., min_peers=5), Diverged(grace=2, factor=5.0)]
    """
    killers = []
    for rule in rules:
        takes = {field.name for field in fields(KILLERS[rule]) if field.init}
        given: dict[str, Any] = {**options, "objective": objective}
        killers.append(KILLERS[rule](**{name: given[name] for name in given if name in takes}))
    return killers


def stage_killers(settings: StudySettings, stage: int) -> list[Killer]:
    """Return the killers that hold in the study's stage of index `stage`."""
    return build(settings.rules(stage), settings.kill.options, objective=settings.objective)


def judge_all(killers: Sequence[Killer], curve: Curve, peers: Peers) -> Verdict:
    """Return the first killer's verdict that is not to continue.

    No trial is judged before epoch `grace`, nor at the last epoch of its budget: it is complete,
    there is nothing left to save.
    """
    if curve.epoch >= curve.budget:
        return GO_ON
    for killer in killers:
        if curve.epoch >= killer.grace:
            verdict = killer.judge(curve, peers)
            if verdict.action != "continue":
                return verdict
    return GO_ON
