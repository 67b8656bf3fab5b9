from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from scattershot_common.objective import Objective
from scattershot_master.diagnosis.diagnose import diagnose
from scattershot_master.diagnosis.trial_case import TrialCase
from scattershot_master.diagnosis.trial_rules import RULES


def run(losses: list[float], **series: list[float]) -> list[dict[str, float]]:
    """Return a history with these training losses, and further metrics by epoch."""
    more = [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]
    return [
        {"epoch": epoch, "train_loss": loss, **(more[epoch - 1] if more else {})}
        for epoch, loss in enumerate(losses, 1)
    ]


def layer(epoch: int = 8, **what: Any) -> dict[str, Any]:
    """Return a line of the layers' file."""
    return {"epoch": epoch, "noise": 0.1, **what}


def begun(
    losses: list[float], initial: float = 2.4, chance: float = 2.3, **series: list[float]
) -> list[dict[str, float]]:
    """Return a history that knows what losses it began with."""
    first, *rest = run(losses, **series)
    return [{**first, "initial_loss": initial, "chance_loss": chance}, *rest]


def weights(rms: float) -> list[dict[str, Any]]:
    return [{"name": "0.weight", "shape": [4, 4], "grad_rms": rms}]


def saturated(before: float | None, after: float) -> list[dict[str, Any]]:
    """Return the layers of a tanh of which so much was at its ends before training, and is now."""
    kind = {"name": "1", "kind": "Tanh"}
    first = [] if before is None else [{**kind, "saturated": before}]
    now = {**kind, "saturated": after}
    return [layer(1, initial_activations=first, activations=[now]), layer(8, activations=[now])]


BIAS = {"name": "0.bias", "shape": [4], "grad_rms": 0.1}
FALLING = [1.0, 0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.09]

HANGS = [2.3, 1.6, 1.5, 1.45, 1.44, 1.44]
TOSSED = [2.3, 1.4, 1.2, 1.4, 1.2, 1.4, 1.2, 1.4]
JUMPS = [2.3, 0.5, 0.4, 0.6, 0.4, 0.7, 0.3, 0.5]


def squared(losses: list[float], **series: list[float]) -> list[dict[str, float]]:
    """Return the history of a regression, whose loss is the mean squared error on both parts."""
    return run(losses, val_loss=losses, val_rmse=[loss**0.5 for loss in losses], **series)


def regression(initial: float, chance: float) -> list[dict[str, float]]:
    """Return the history of a regression that knows what losses it began with."""
    first, *rest = squared([initial / 2, initial / 4])
    return [{**first, "initial_loss": initial, "chance_loss": chance}, *rest]


CASES: list[tuple[str, TrialCase, bool]] = [
    ("initial_loss", TrialCase(begun(FALLING, 9.0)), True),
    ("initial_loss", TrialCase(begun(FALLING, 2.9)), False),
    ("initial_loss", TrialCase(run(FALLING)), False),
    # a regression's targets are far from 0, or tiny
    ("initial_loss", TrialCase(regression(59000.0, 5900.0)), True),
    ("initial_loss", TrialCase(regression(1.2, 1e-6)), True),
    ("initial_loss", TrialCase(regression(2.1, 1.0)), False),
    ("initial_loss", TrialCase(regression(0.2, 1.0)), False),
    ("initial_loss", TrialCase(begun(FALLING, 5.5), params={"batch_size": 32}), True),
    # two examples scatter
    ("initial_loss", TrialCase(begun(FALLING, 5.5), params={"batch_size": 2}), False),
    ("flat_start", TrialCase(begun([2.3, 2.3, 2.28, 1.0, 0.4, 0.2], 2.3)), True),
    ("flat_start", TrialCase(begun(FALLING)), False),
    # it never drops, it is slow
    ("flat_start", TrialCase(begun([8.0, 7.6, 7.1, 6.5, 5.9, 5.3], 8.1)), False),
    # epoch 1 is what the others are measured by, and not flat itself
    ("flat_start", TrialCase(run([2.0, 1.0, 0.6, 0.3, 0.2])), False),
    ("flat_start", TrialCase(run([2.0, 2.0, 1.0, 0.3, 0.2])), True),
    # the rate was warming up
    (
        "flat_start",
        TrialCase(begun([2.3, 2.25, 1.0, 0.4, 0.2, 0.1], 2.3, lr=[0.02, 0.04, 0.1, 0.1, 0.1, 0.1])),
        False,
    ),
    ("diverged", TrialCase(run([1.0, float("nan")])), True),
    # a likelihood's loss has no floor
    ("diverged", TrialCase(run([-0.2, -1.0, -1.5, -1.45, -1.5, -1.48])), False),
    ("diverged", TrialCase(begun([0.1, -1.0, -1.5, -1.4, -1.45, -1.4], 0.3, 0.3)), False),
    ("diverged", TrialCase(run([-0.2, -1.0, -1.5, 3.0, 4.0])), True),
    ("diverged", TrialCase(run([-2.0, -1.9, -1.0, -0.5, 0.5])), True),
    ("diverged", TrialCase(run([2.0, 3.5, 9.0])), True),
    ("diverged", TrialCase(run([1.0, 0.2, 0.9])), True),
    ("diverged", TrialCase(run([1.0, 0.2, 0.6, 0.6])), True),
    # one epoch's jump
    ("diverged", TrialCase(run([1.0, 0.2, 0.2, 0.6])), False),
    ("diverged", TrialCase(run(FALLING)), False),
    ("exploding_gradients", TrialCase(run([1.0, 0.9], grad_norm=[3.0, 800.0])), True),
    ("exploding_gradients", TrialCase(run([1.0, 0.9], grad_norm=[3.0, 8.0])), False),
    # a loss that sums over a batch, or is in other units
    ("exploding_gradients", TrialCase(run([74.0, 60.0], grad_norm=[60.0, 50.0])), False),
    ("exploding_gradients", TrialCase(run([74.0, 60.0], grad_norm=[60.0, 5000.0])), True),
    # a squared error of targets around 150, and of tiny ones
    (
        "exploding_gradients",
        TrialCase(squared([29000.0, 9000.0], grad_norm=[2500.0, 900.0])),
        False,
    ),
    ("exploding_gradients", TrialCase(squared([29000.0, 9000.0], grad_norm=[8e5, 900.0])), True),
    ("exploding_gradients", TrialCase(squared([1e-4, 1e-6], grad_norm=[0.02, 1e-3])), False),
    # the loss is no number, so no gradient is
    (
        "exploding_gradients",
        TrialCase(run([1.0, float("nan")], grad_norm=[3.0, float("nan")])),
        False,
    ),
    ("exploding_gradients", TrialCase(run([1.0, 0.9], grad_norm=[3.0, float("inf")])), True),
    ("vanishing_gradients", TrialCase(begun([2.3] * 8), [layer(parameters=weights(1e-8))]), True),
    ("vanishing_gradients", TrialCase(begun([2.3] * 8), [layer(parameters=weights(1e-4))]), False),
    (
        "vanishing_gradients",
        TrialCase(begun([2.3] * 8), [layer(parameters=[*weights(1e-8), {**BIAS, "grad": 0.2}])]),
        True,
    ),
    # a batch that the model knows
    (
        "vanishing_gradients",
        TrialCase(begun([2.3] * 8), [layer(parameters=[{**weights(1e-8)[0], "grad": 1e-7}])]),
        False,
    ),
    # a training that has nothing left to learn has no gradients either
    (
        "vanishing_gradients",
        TrialCase(begun([1.0, 1e-6]), [layer(parameters=weights(1e-8))]),
        False,
    ),
    (
        "dead_relus",
        TrialCase(run(FALLING), [layer(activations=[{"name": "1", "dead": 0.7}])]),
        True,
    ),
    (
        "dead_relus",
        TrialCase(run(FALLING), [layer(activations=[{"name": "1", "dead": 0.45}])]),
        False,
    ),
    ("saturated", TrialCase(run(FALLING), saturated(0.7, 0.8)), True),
    ("saturated", TrialCase(run(FALLING), saturated(0.7, 0.2)), False),
    # learned: it was not so from the start
    ("saturated", TrialCase(run(FALLING), saturated(0.1, 0.8)), False),
    ("saturated", TrialCase(run(FALLING), saturated(None, 0.8)), False),
    ("update_ratio", TrialCase(run(FALLING, update_ratio=[0.1] * 8)), True),
    ("update_ratio", TrialCase(run(FALLING, update_ratio=[1e-6] * 8)), True),
    ("update_ratio", TrialCase(run(FALLING, update_ratio=[1e-3] * 8)), False),
    # of the first epoch alone: small is told, large is as it is at first
    ("update_ratio", TrialCase([{"epoch": 1, "update_ratio": 1e-6}, *run(FALLING)[1:]]), True),
    ("update_ratio", TrialCase([{"epoch": 1, "update_ratio": 0.1}, *run(FALLING)[1:]]), False),
    # it broke: a higher rate is no help
    ("update_ratio", TrialCase(run([1.0] * 7 + [float("nan")], update_ratio=[1e-6] * 8)), False),
    ("update_ratio", TrialCase(run([50.0] + [1.0] * 7, update_ratio=[1e-6] * 8)), True),
    ("update_ratio", TrialCase(begun([50.0] + [1.0] * 7, update_ratio=[1e-6] * 8)), False),
    # the noise of the batches around a minimum
    (
        "update_ratio",
        TrialCase(run([2.0, 0.7, *[0.5, 0.49] * 3], update_ratio=[0.03] * 8)),
        False,
    ),
    ("slow", TrialCase(run([2.3, 2.27, 2.24, 2.21, 2.18, 2.15])), True),
    ("slow", TrialCase(run(FALLING)), False),
    # large updates and a straight line: not the rate
    (
        "slow",
        TrialCase(run([2.3, 2.27, 2.24, 2.21, 2.18, 2.15], update_ratio=[5e-3] * 6)),
        False,
    ),
    ("plateau", TrialCase(run(JUMPS, update_ratio=[9e-3] * 8)), True),
    ("plateau", TrialCase(run(JUMPS, update_ratio=[1e-3] * 8)), False),
    # little is left
    (
        "plateau",
        TrialCase(run([2.3, 0.3, 0.05, 0.1, 0.05, 0.1, 0.04, 0.08], update_ratio=[9e-3] * 8)),
        False,
    ),
    # it fits its examples, or something random keeps the training loss up
    ("plateau", TrialCase(run(JUMPS, update_ratio=[9e-3] * 8, val_loss=[2.3, *[2.4] * 7])), False),
    ("plateau", TrialCase(run(JUMPS, update_ratio=[9e-3] * 8, val_loss=[2.3, *[0.2] * 7])), False),
    # a schedule is at work on it
    ("plateau", TrialCase(run(JUMPS, update_ratio=[9e-3] * 8, lr=[0.1] * 4 + [0.01] * 4)), False),
    # nothing jumps: the model has reached what it can
    ("plateau", TrialCase(run([2.3, 1.2, *[1.0] * 6], update_ratio=[9e-3] * 8)), False),
    (
        "early_decay",
        TrialCase(run([2.0, 1.5, 1.48, 1.48, 1.48, 1.48], lr=[1e-1, 1e-1, 1e-3, 1e-3, 1e-3, 1e-3])),
        True,
    ),
    (
        "early_decay",
        TrialCase(run([2.0, 0.5, 0.3, 0.1, 0.05, 0.05], lr=[1e-1, 1e-1, 1e-1, 1e-1, 1e-3, 1e-3])),
        False,
    ),
    # bit by bit, and at the end of a schedule
    (
        "early_decay",
        TrialCase(run([2.3, 1.9, 1.6, 1.4, *[1.35] * 8], lr=[0.6**n for n in range(12)])),
        True,
    ),
    (
        "early_decay",
        TrialCase(run([2.3, 1.2, 1.0, 0.99, *[0.98] * 8], lr=[0.6**n for n in range(12)])),
        False,
    ),
    (
        "early_decay",
        TrialCase(
            run([2.3 - 0.1 * n for n in range(10)] + [1.4, 1.4], lr=[1.0] * 9 + [0.6, 0.3, 0.05])
        ),
        False,
    ),
    ("noisy", TrialCase(run(FALLING), [layer(4, noise=1.5)]), True),
    ("noisy", TrialCase(run(FALLING), [layer(8, noise=1.5)]), False),
    # it may have calmed down since
    ("noisy", TrialCase(run(FALLING), [layer(3, noise=1.5)]), False),
    ("noisy", TrialCase(run(FALLING[:2]), [layer(1, noise=1.5)]), False),
    # the examples' own: nothing was learned yet
    ("noisy", TrialCase(begun([2.4] * 4), [layer(4, noise=0.3)]), False),
    # the first batch was a lucky one
    ("noisy", TrialCase(begun([2.0, 0.9, 0.8], 1.0, 1.0), [layer(2, noise=0.4)]), False),
    (
        "overfitting",
        TrialCase(run(FALLING, train_accuracy=[1.0] * 8, val_accuracy=[0.8] * 8)),
        True,
    ),
    ("overfitting", TrialCase(run(FALLING, val_loss=[1, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8])), True),
    (
        "overfitting",
        TrialCase(run(FALLING, train_accuracy=[1.0] * 8, val_accuracy=[0.97] * 8)),
        False,
    ),
    # one epoch's validation accuracy is low
    (
        "overfitting",
        TrialCase(
            run(FALLING, train_accuracy=[0.88] * 8, val_accuracy=[0.9] * 5 + [0.5, 0.87, 0.9])
        ),
        False,
    ),
    # by percent
    (
        "overfitting",
        TrialCase(run(FALLING, train_accuracy=[97.0] * 8, val_accuracy=[80.0] * 8)),
        True,
    ),
    (
        "overfitting",
        TrialCase(run(FALLING, train_accuracy=[97.0] * 8, val_accuracy=[94.0] * 8)),
        False,
    ),
    # whatever the study's metric is called, and of an error
    (
        "overfitting",
        TrialCase(
            run(FALLING, train_f1=[0.9] * 8, val_f1=[0.7] * 8), objective=Objective("val_f1")
        ),
        True,
    ),
    (
        "overfitting",
        TrialCase(
            run(FALLING, train_error=[0.01] * 8, val_error=[0.2] * 8),
            objective=Objective("val_error", "minimize"),
        ),
        True,
    ),
    (
        "overfitting",
        TrialCase(
            run(FALLING, train_error=[0.2] * 8, val_error=[0.01] * 8),
            objective=Objective("val_error", "minimize"),
        ),
        False,
    ),
    # the study goes by the loss, and the accuracies are there
    (
        "overfitting",
        TrialCase(
            run(FALLING, train_accuracy=[1.0] * 8, val_accuracy=[0.8] * 8),
            objective=Objective("val_loss", "minimize"),
        ),
        True,
    ),
    (
        "overfitting",
        TrialCase(run(FALLING, train_auc=[0.9] * 8, auc=[0.7] * 8), objective=Objective("auc")),
        True,
    ),
    # numbers have no points: by the losses
    ("overfitting", TrialCase(run(FALLING, val_loss=[1, *[0.6] * 7])), True),
    ("overfitting", TrialCase(run(FALLING, val_loss=[1, *[0.25] * 7])), False),
    ("overfitting", TrialCase(run([1, *[-4.6] * 7], val_loss=[1, *[-3.4] * 7])), False),
    # too sure of itself, but right
    (
        "overfitting",
        TrialCase(
            run(
                FALLING,
                val_loss=[1, *[0.6] * 7],
                train_accuracy=[0.99] * 8,
                val_accuracy=[0.97] * 8,
            )
        ),
        False,
    ),
    # it knows neither part
    (
        "overfitting",
        TrialCase(run(FALLING, train_accuracy=[0.31] * 8, val_accuracy=[0.22] * 8)),
        False,
    ),
    # the last validation loss alone is high
    (
        "overfitting",
        TrialCase(run(FALLING, val_loss=[1, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.8])),
        False,
    ),
    # so is the training loss
    (
        "overfitting",
        TrialCase(run([*FALLING[:7], 0.25], val_loss=[1, 0.5, *[0.4] * 4, 0.7, 0.8])),
        False,
    ),
    (
        "underfitting",
        TrialCase(run(HANGS, val_loss=[2.2, 1.6, 1.5, 1.5, 1.5, 1.5])),
        True,
    ),
    (
        "underfitting",
        TrialCase(run(HANGS, val_loss=[2.2, 1.6, 1.9, 2.5, 2.5, 2.5])),
        False,
    ),
    (
        "underfitting",
        TrialCase(run(HANGS, train_accuracy=[0.31] * 6, val_accuracy=[0.22] * 6)),
        True,
    ),
    (
        "underfitting",
        TrialCase(run(HANGS, train_accuracy=[0.6] * 6, val_accuracy=[0.53] * 6)),
        False,
    ),
    # the classes overlap
    (
        "underfitting",
        TrialCase(run(HANGS, train_accuracy=[0.81] * 6, val_accuracy=[0.8] * 6)),
        False,
    ),
    # half of what is measured is noise
    ("underfitting", TrialCase(squared([1.0, 0.6, *[0.55] * 6])), False),
    ("underfitting", TrialCase(squared([1.0, 0.9, *[0.85] * 6])), True),
    # it is slow
    (
        "underfitting",
        TrialCase(run([2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7, 1.6], update_ratio=[4e-4] * 8)),
        False,
    ),
    # nothing was learned: not the size
    ("underfitting", TrialCase(begun([2.8, 2.5, 2.4, 2.4, 2.4, 2.4]), [layer()]), False),
    # label smoothing keeps the training loss up
    ("underfitting", TrialCase(run(HANGS, val_loss=[1.0, 0.5, 0.4, 0.4, 0.4, 0.4])), False),
    # steps that are too large do
    ("underfitting", TrialCase(run(TOSSED, update_ratio=[9e-3] * 8)), False),
    ("underfitting", TrialCase(run(TOSSED, update_ratio=[1e-3] * 8)), True),
    (
        "underfitting",
        TrialCase(run(HANGS), [layer(activations=[{"name": "1", "dead": 0.9}])]),
        False,
    ),
    ("still_improving", TrialCase(run(FALLING, val_accuracy=[0.1 * k for k in range(1, 9)])), True),
    ("still_improving", TrialCase(run(FALLING, val_accuracy=[0.5] + [0.9] * 7)), False),
    # it jumps by more than it gained
    (
        "still_improving",
        TrialCase(run(FALLING, val_accuracy=[0.5, 0.7, 0.8, 0.8, 0.86, 0.8, 0.82, 0.88])),
        False,
    ),
    # and is back at the end
    (
        "still_improving",
        TrialCase(run(FALLING * 2, val_accuracy=[0.5] * 4 + [0.8] * 8 + [0.81, 0.84, 0.84, 0.81])),
        False,
    ),
    # it comes back to where it was before
    (
        "still_improving",
        TrialCase(run(FALLING * 2, val_accuracy=[0.1] + [0.19] * 7 + [0.09] * 4 + [0.18] * 4)),
        False,
    ),
]


@pytest.mark.parametrize(("rule", "case", "fires"), CASES)
def test_each_rule_finds_what_it_is_for_and_nothing_else(
    rule: str, case: TrialCase, fires: bool
) -> None:
    finding = RULES[rule].find(case)
    assert (finding is not None) is fires
    if finding is not None:
        assert finding.evidence and finding.remedy and finding.source and finding.rule == rule


def test_the_cases_reach_both_sides_of_every_rule() -> None:
    for side in (True, False):
        assert {rule for rule, _, fires in CASES if fires is side} == set(RULES)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"epoch": 1}],
        [{"epoch": 1, "acc": 0.5}],
        run([float("nan")] * 9),
        run([0.0] * 9),
        run([float("inf"), -float("inf")] * 4),
    ],
)
@pytest.mark.parametrize(
    "line", [{}, {"epoch": 1}, layer(1, noise=0.5), layer(noise=float("nan"), parameters=[])]
)
def test_a_rule_is_silent_on_what_was_not_recorded(
    history: list[Mapping[str, float]], line: dict[str, Any]
) -> None:
    findings = diagnose(TrialCase(history, [line] if line else []))
    assert {finding.rule for finding in findings} <= {"diverged"}
