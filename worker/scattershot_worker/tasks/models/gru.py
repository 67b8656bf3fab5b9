"""Owns the recurrent network for text: a gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from scattershot_worker.tasks.models.layers import output_linear


class _Gru(nn.Module):
    def __init__(self, symbols: int, classes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width, padding_idx=0)
        self.gru = nn.GRU(width, width, layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = output_linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.embed(x))
        ended = (x == 0).unsqueeze(-1)
        best = states.masked_fill(ended, -1.0).amax(1)  # a state lies within -1 and 1
        output: Tensor = self.output(self.dropout(best))
        return output


def gru(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Module:
    """Return the network for texts of `shape` (symbols, length), 0 where a text has ended.

    Reads `hidden` units (default 64), `layers` (1) and the `dropout` (0) of the largest states
    over the text, from which the outputs are made.
    """
    width, layers = int(params.get("hidden", 64)), int(params.get("layers", 1))
    return _Gru(shape[0], classes, width, layers, float(params.get("dropout", 0.0)))
