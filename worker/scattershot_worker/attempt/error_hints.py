"""Owns what to do about errors whose messages, which are torch's, leave users alone."""

from __future__ import annotations

from collections.abc import Mapping

_DOUBLE = "numpy's numbers are float64: give .float() in data()"
_WHOLE = "the inputs are integers: give x.float() in data()"
#: Part of a message → what it comes from, or what to do.
_HINTS: Mapping[str, str] = {
    "got Double and Float": _DOUBLE,
    "Float but found Double": _DOUBLE,
    "Found dtype Double": _DOUBLE,
    "type (double)": _DOUBLE,
    "DoubleTensor": _DOUBLE,
    "got type torch.float64": _DOUBLE,
    "got Byte and Float": _WHOLE,
    "got Long and Float": _WHOLE,
    "type (unsigned char)": _WHOLE,
    "type (long)": _WHOLE,
    "only for scalar outputs": "loss() must return the batch's mean, one number",
    "has no attribute 'backward'": "loss() must return a tensor, not its .item()",
    "does not require grad": "nothing that is trained comes to the loss: all is frozen or detached",
    "is out of bounds.": "labels go from 0 to the number of outputs less 1",
    "device-side assert": "most often a label beyond the model's outputs: see `scattershot check`",
}


def hint(message: str) -> str:
    """Return what to do about an error with that message, to be put after it, or nothing.

    >>> hint("grad can be implicitly created only for scalar outputs")
    "; loss() must return the batch's mean, one number"
    """
    return next((f"; {advice}" for part, advice in _HINTS.items() if part in message), "")
