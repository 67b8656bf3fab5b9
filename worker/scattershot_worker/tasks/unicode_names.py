"""The `unicode_names` task, short texts: which kind of character has this name?

The data comes with Python: the names of the characters of Unicode 3.2, whose table every Python
keeps unchanged as `unicodedata.ucd_3_2_0` for internet host names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unicodedata import ucd_3_2_0

import torch
from torch import nn

from scattershot_common.task.task import Data, Task
from scattershot_worker.tasks.base import shuffled, split
from scattershot_worker.tasks.models import TEXT, choose

_LENGTH = 32
_SYMBOLS = " -0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # 1, 2, …; 0 stands where the name has ended
#: Prefixes of Unicode categories, each of which is a class.
_CLASSES = ("Lu", "Ll", "Lo", "M", "N", "P", "Sm", "So")
#: Names of a class, at most: else half of all would be letters without case.
_MAX_NAMES = 480
#: Code points from here on are ideographs and invisible tags only.
_END = 0x20000
#: Prefixes of names that consist of a number or a sound only.
_NUMBERED = ("CJK UNIFIED IDEOGRAPH", "HANGUL SYLLABLE")
_TRAIN, _VAL = 2_400, 600


class UnicodeNames(Task):
    """Names such as "UPWARDS TWO HEADED ARROW" in eight classes of characters.

    Capital, small and other letters, marks, numbers, punctuation, mathematical and other symbols;
    no more than 480 names of each and none longer than 32 letters: 2,400 for training, 600 for
    validation, the rest for the test, always split the same way.
    """

    def data(self) -> Data:
        """Return symbols [N, 32], 0 where the name has ended, and classes [N], both int64."""
        names = _drawn()
        x = torch.zeros(len(names), _LENGTH, dtype=torch.int64)
        for row, (name, _) in zip(x, names, strict=True):
            row[: len(name)] = torch.tensor([1 + _SYMBOLS.index(symbol) for symbol in name])
        y = torch.tensor([number for _, number in names])
        return split(x, y, _TRAIN, _VAL)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return the network that `params["model"]` names: cnn (the default), gru, transformer.

        Each of them in `models.text` documents what else it reads: `hidden`, `layers`, `dropout`,
        `span`, `heads`.

        Raises:
            TaskError: there is no network of that name.
        """
        return choose(TEXT, params, "cnn")((1 + len(_SYMBOLS), _LENGTH), len(_CLASSES), params)


def _drawn() -> list[tuple[str, int]]:
    """Return the names with their classes, in the order in which they are split."""
    known: list[tuple[str, int]] = []
    for character in map(chr, range(_END)):
        name = ucd_3_2_0.name(character, "")
        if not name or len(name) > _LENGTH or name.startswith(_NUMBERED):
            continue
        category = ucd_3_2_0.category(character)
        known += [(name, n) for n, prefix in enumerate(_CLASSES) if category.startswith(prefix)]
    drawn: list[tuple[str, int]] = []
    left = [_MAX_NAMES] * len(_CLASSES)
    for index in shuffled(len(known)).tolist():
        name, number = known[index]
        if left[number]:
            left[number] -= 1
            drawn.append((name, number))
    # shuffled again: classes that were full early would be missing in the later parts
    return [drawn[index] for index in shuffled(len(drawn)).tolist()]
