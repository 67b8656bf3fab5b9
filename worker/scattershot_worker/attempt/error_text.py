"""Errors of users' code in one line: what, where in their code, and what to do about it."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path

import scattershot_common

#: Where code lies whose lines tell a user little; "<" begins the names of what is in no file.
_NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    str(Path(scattershot_common.__file__).parent),
    sysconfig.get_path("stdlib"),
    "<",
)
_DOUBLE = "numpy's numbers are float64: give .float() in data()"
_WHOLE = "the inputs are integers: give x.float() in data()"
#: Part of a message of torch → what it comes from, or what to do.
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


def describe(error: BaseException) -> str:
    """Return an error in one line, with the place in the user's code it came from and a hint."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS) and "site-packages" not in frame.filename
    ]
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = first_line(error)
    told = f"{message}{location}".strip()
    return f"{type(error).__name__}: {told}{hint(message)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something, at most 300 characters.

    >>> first_line(RuntimeError("Error(s) in loading state_dict for Net:\\n\\tMissing key(s): w"))
    'Error(s) in loading state_dict for Net: Missing key(s): w'
    """
    lines = [
        line for line in map(str.strip, str(error).splitlines()) if any(map(str.isalnum, line))
    ]
    text = ""
    for line in lines:
        text = f"{text} {line}".strip()
        if not line.endswith(":"):  # what it announces is in the next
            break
    return text[:300]


def hint(message: str) -> str:
    """Return what to do about an error with that message, to be put after it, or nothing.

    >>> hint("grad can be implicitly created only for scalar outputs")
    "; loss() must return the batch's mean, one number"
    """
    return next((f"; {advice}" for part, advice in _HINTS.items() if part in message), "")
