"""Owns which axis of predictions the classes are, by shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

#: The target that cross-entropy leaves out.
IGNORED = -100


def class_axis(outputs: Sequence[int], targets: Sequence[int], *, second: bool) -> int | None:
    """Return the axis of outputs of that shape which the targets do not have: 1, -1, or None.

    Where both could be meant, as of [8, 3, 3] for [8, 3], it is the second if `second`.

    >>> class_axis((8, 3, 5, 5), (8, 5, 5), second=False)
    1
    >>> class_axis((8, 5, 3), (8, 5), second=True)
    -1
    """
    whole, rest = tuple(outputs), tuple(targets)
    if len(whole) != len(rest) + 1 or not rest:
        return None
    fitting = [axis for axis in (1, -1) if whole[:axis] + whole[axis:][1:] == rest]
    return (fitting[0] if second else fitting[-1]) if fitting else None
