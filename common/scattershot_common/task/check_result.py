"""The checks before learning: their names, and the result of one as data and as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from scattershot_common.problems import nearest

Status = Literal["pass", "warn", "fail", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)

#: The checks by name, in the order they run, with what each of them asks.
CHECKS = {
    "data": "Is anything wrong with the examples and their labels?",
    "initial_loss": "Is the loss at chance before anything is learned?",
    "regularization": "Does the loss rise when the regularization rises?",
    "options": "Do augmentation, mixed precision and the compiler work, where they are on?",
    "gradients": "Does backpropagation agree with numerical gradients?",
    "overfit": "Can the network learn twenty examples by heart?",
    "learning": "Does the loss fall within 100 iterations?",
    "rates": "Which learning rates are worth searching?",
}
#: The name of the result where a task cannot be checked at all.
TASK = "task"


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    `found` is the outcome with its numbers on one line, `meaning` its interpretation, `remedy`
    what to do ("" for nothing), `details` further observations. `numbers` is the same for
    programs; a number that is not finite is None there.
    """

    name: str
    status: Status
    found: str
    meaning: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {**asdict(self), "details": [*self.details], "numbers": _finite(dict(self.numbers))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckResult:
        """Return the result that `to_json` wrote."""
        return cls(**{**data, "details": tuple(data["details"])})

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines after the first: ("meaning" | "detail" | "remedy", text).

        >>> [*CheckResult("overfit", "pass", "loss 0.001", "It can learn.").lines()]
        [('meaning', 'It can learn.')]
        """
        yield "meaning", self.meaning
        for detail in self.details:
            yield "detail", detail
        if self.remedy:
            yield "remedy", self.remedy

    def to_text(self) -> str:
        """Return the result as text for people.

        >>> result = CheckResult("overfit", "fail", "loss 1.2", "It cannot learn.", "Look at it.")
        >>> print(result.to_text())
        fail     overfit         loss 1.2
                 It cannot learn.
                 → Look at it.
        """
        text = [f"{self.status:<8} {self.name:<15} {self.found}"]
        marks = {"meaning": "", "detail": "· ", "remedy": "→ "}
        text += [f"{'':9}{marks[kind]}{line}" for kind, line in self.lines()]
        return "\n".join(text)


def _finite(value: Any) -> Any:
    """Return `value` with None for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def select_checks(only: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the checks to run, in order: those of `only`, or all.

    Raises:
        ValueError: a name is no check; the message gives the nearest.
    """
    for name in only:
        if name not in CHECKS:
            raise ValueError(
                f"there is no check {name!r}{nearest(name, CHECKS)} (there are {', '.join(CHECKS)})"
            )
    return tuple(name for name in CHECKS if not only or name in only)
