"""Owns the study's rules together: built from the [kill] table, judged as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from scattershot_master.killers import KILLERS
from scattershot_master.killers.base import GO_ON, Curve, Killer, Peers, Verdict


def build(
    rules: Sequence[str], options: Mapping[str, float | int], *, minimize: bool = False
) -> list[Killer]:
    """Return the killers that `rules` names, each with those of `options` that it takes.

    `options` are checked already (`settings.Kill`). `minimize`: the metric's goal, so that
    reasons show its sign right.

    >>> build(["median", "diverged"], {"grace": 2, "factor": 5.0})  # doctest: +ELLIPSIS
    [Median(grace=2, ..., min_peers=5), Diverged(grace=2, minimize=False, factor=5.0)]
    """
    killers = []
    for rule in rules:
        takes = {field.name for field in fields(KILLERS[rule]) if field.init}
        given: dict[str, Any] = {**options, "minimize": minimize}
        killers.append(KILLERS[rule](**{name: given[name] for name in given if name in takes}))
    return killers


def judge_all(killers: Sequence[Killer], curve: Curve, peers: Peers) -> Verdict:
    """Return the first killer's verdict that is not to continue.

    Nobody is judged before its `grace` epoch, nor at the last epoch of its budget: that trial is
    complete, there is nothing left to save.
    """
    if curve.epoch >= curve.budget:
        return GO_ON
    for killer in killers:
        if curve.epoch >= killer.grace:
            verdict = killer.judge(curve, peers)
            if verdict.action != "continue":
                return verdict
    return GO_ON
