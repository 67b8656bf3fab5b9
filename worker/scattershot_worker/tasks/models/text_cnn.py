"""Owns the convolutional network for text: which groups of letters occur, wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from scattershot_worker.tasks.models.layers import hidden_linear, output_linear


class _TextCnn(nn.Module):
    def __init__(self, symbols: int, classes: int, width: int, span: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width, padding_idx=0)
        self.spans = hidden_linear(span * width, width)
        self.dropout = nn.Dropout(dropout)
        self.output = output_linear(width, classes)
        self.span = span

    def forward(self, x: Tensor) -> Tensor:
        windows = self.embed(x).unfold(1, self.span, 1)  # [N, windows, width, span]
        found = self.spans(windows.flatten(2)).relu().amax(1)
        output: Tensor = self.output(self.dropout(found))
        return output


def text_cnn(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Module:
    """Return the network for texts of `shape` (symbols, length), 0 where a text has ended.

    One convolution over `span` symbols (default 5) with `hidden` channels (64), the largest of
    each over the text (Kim 2014, "Convolutional Neural Networks for Sentence Classification"),
    and `dropout` (0) before the outputs.
    """
    width, span = int(params.get("hidden", 64)), int(params.get("span", 5))
    return _TextCnn(shape[0], classes, width, span, float(params.get("dropout", 0.0)))
