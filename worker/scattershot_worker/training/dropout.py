"""Dropout masks: a function of the trial's seed, the epoch, the step and the position alone.

A mask's random bits are a counter run through the finalizer of splitmix64 (Steele, Lea, Flood:
"Fast splittable pseudorandom number generators", 2014), in plain integer operations. So a trial
has the same masks on every device, alone or as a lane beside others, resumed or not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scattershot_common.seeds import derive

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
#: Counters of one step; a step that needs more overlaps the next one's, which does no harm.
_STEP = 1 << 40
#: Steps whose bits are drawn at once by a trial alone, if a step has at most `_SMALL` counters.
_AHEAD, _SMALL = 16, 1 << 16


def signed(value: int) -> int:
    """Return a 64-bit number as a signed one, for torch's int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def counters(first: int, count: int, device: torch.device) -> Tensor:
    """Return int64 [count]: the counters from `first` on, spread over 64 bits."""
    return torch.arange(first, first + count, device=device).mul_(signed(_GOLDEN))


def starts(keys: Tensor, step: int) -> Tensor:
    """Return the first counters of a step, for keys of any shape."""
    return keys + signed(step * _STEP * _GOLDEN)


def bits(begin: Tensor, spread: Tensor) -> Tensor:
    """Return int16 random bits [K, 4 n], from `starts` [K] and `counters` [n]."""
    z = spread + begin.unsqueeze(1)
    z.bitwise_xor_((z >> 30).bitwise_and_((1 << 34) - 1)).mul_(signed(_MIX[0]))
    z.bitwise_xor_((z >> 27).bitwise_and_((1 << 37) - 1)).mul_(signed(_MIX[1]))
    z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))  # torch's shifts keep the sign
    return z.view(torch.int16)


def key(seed: int, epoch: int) -> int:
    """Return the key of a trial's masks in an epoch."""
    return signed(derive(seed, "dropout", epoch))


def rule(p: float) -> tuple[int, float]:
    """Return (threshold, scale): an element is kept if its 16 bits are at most the threshold.

    >>> rule(0.0), rule(0.5), rule(1.0)
    ((32767, 1.0), (-1, 2.0), (-32769, 0.0))
    """
    return round((1 - p) * 65536) - 32769, 1 / (1 - p) if p < 1 else 0.0


def apply(x: Tensor, random: Tensor, threshold: Tensor | int, scale: Tensor | float) -> Tensor:
    """Return `x` with the elements dropped that `random`, int16 of its shape, lies above."""
    return x * factors(x, random, threshold, scale)


def factors(x: Tensor, random: Tensor, threshold: Tensor | int, scale: Tensor | float) -> Tensor:
    """Return what `x` is multiplied by: `scale`, or 0 for the elements that are dropped."""
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.le(random, threshold, out=result)  # by way of booleans it takes eight times as long
    return result.mul_(scale)


#: Takes a dropout module and its input, returns its output.
Source = Callable[["KeyedDropout", Tensor], Tensor]


class KeyedDropout(nn.Dropout):
    """What every `nn.Dropout` of a task's model becomes: its masks come from a `Source`."""

    source: Source

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements while training."""
        return self.source(self, input) if self.training and self.p > 0 else input


def take_over(model: nn.Module, source: Source) -> None:
    """Let all dropout modules of a model take their masks from `source`."""
    for module in model.modules():
        if type(module) is nn.Dropout or type(module) is KeyedDropout:
            module.__class__ = KeyedDropout
            module.source = source  # type: ignore[assignment]


class Masks:
    """The masks of one trial that trains alone; a `Source`.

    Bits are drawn for many steps at once: in small networks overhead dominates.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self._spread = counters(0, 0, device)
        self._key = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows = torch.arange(_AHEAD, device=device).mul_(signed(_STEP * _GOLDEN))
        self._step = self._used = self._drawn = 0
        self._block: Tensor | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Start an epoch."""
        self._key.fill_(key(self._seed, epoch))
        self._step = self._used = -1
        self._block = None

    def begin_step(self) -> None:
        """Start the next step."""
        self._step += 1
        if self._step % _AHEAD == 0 and self._used != 0 and len(self._spread) <= _SMALL:
            self._drawn = len(self._spread)
            self._block = bits(starts(self._key, self._step) + self._rows, self._spread)
        self._used = 0

    def __call__(self, module: KeyedDropout, x: Tensor) -> Tensor:
        """Return the input with elements dropped, by the next counters of this step."""
        first, end = self._used, self._used + (x.numel() + 3) // 4
        self._used = end
        if end > len(self._spread):
            self._spread = counters(0, end, self._device)
        if self._block is not None and end <= self._drawn:
            random = self._block[self._step % _AHEAD, 4 * first : 4 * first + x.numel()]
        else:
            begin = starts(self._key, self._step)
            random = bits(begin, self._spread[first:end])[0, : x.numel()]
        threshold, scale = rule(module.p)
        if threshold < -32768:
            return x * 0.0
        return apply(x, random.view(x.shape), threshold, scale)
