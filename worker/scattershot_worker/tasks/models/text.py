"""Networks for texts of symbols: gru, text_cnn, transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_common.errors import TaskError
from scattershot_worker.tasks.models.layers import hidden_linear, output_linear


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
        largest = states.masked_fill(ended, -1.0).amax(1)  # a state lies within -1 and 1
        output: Tensor = self.output(self.dropout(largest))
        return output


def gru(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Module:
    """Return a gated recurrent unit (Cho et al. 2014) for texts, 0 where a text has ended.

    `shape` is (symbols, length). Reads `hidden` units (default 64), `layers` (1) and `dropout` (0)
    of the maximum of each state over the text, from which the outputs are made.
    """
    width, layers = int(params.get("hidden", 64)), int(params.get("layers", 1))
    return _Gru(shape[0], classes, width, layers, float(params.get("dropout", 0.0)))


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
        largest = self.spans(windows.flatten(2)).relu().amax(1)
        output: Tensor = self.output(self.dropout(largest))
        return output


def text_cnn(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Module:
    """Return a convolutional network for texts, 0 where a text has ended.

    `shape` is (symbols, length). One convolution over `span` symbols (default 5) with `hidden`
    channels (64), the maximum of each over the text (Kim 2014, "Convolutional Neural Networks for
    Sentence Classification"), and `dropout` (0) before the outputs.
    """
    width, span = int(params.get("hidden", 64)), int(params.get("span", 5))
    return _TextCnn(shape[0], classes, width, span, float(params.get("dropout", 0.0)))


class _Attention(nn.Module):
    """Self-attention over the symbols of a text (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, ended: Tensor) -> Tensor:
        """Take states [N, length, width] and where the texts have ended, [N, length]."""
        split = self.project(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # [N, heads, length, …]
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(ended[:, None, None], -1e9).softmax(-1)
        mixed: Tensor = self.mix((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.first_norm, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            *(hidden_linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, ended: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.first_norm(x), ended))
        result: Tensor = x + self.dropout(self.feed_forward(x))
        return result


class _Transformer(nn.Module):
    def __init__(self, symbols: int, length: int, width: int, layers: list[_Layer]) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean state [N, width] over each text."""
        ended = x == 0
        states = self.embed(x) + self.position
        for layer in self.layers:
            states = layer(states, ended)
        mask = (~ended).unsqueeze(-1).to(states.dtype)
        total: Tensor = (self.norm(states) * mask).sum(1)
        return total / mask.sum(1).clamp(min=1)


def transformer(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Module:
    """Return a transformer encoder, layer norms first, for texts, 0 where a text has ended.

    `shape` is (symbols, length). Reads `hidden` (the width, default 64), `layers` (1), `heads` (4)
    and `dropout` (0).

    Raises:
        TaskError: the width cannot be divided among the heads.
    """
    symbols, length = shape
    width, heads = int(params.get("hidden", 64)), int(params.get("heads", 4))
    if width % heads:
        raise TaskError(f"hidden = {width} cannot be divided among heads = {heads}")
    dropout = float(params.get("dropout", 0.0))
    layers = [_Layer(width, heads, dropout) for _ in range(int(params.get("layers", 1)))]
    return nn.Sequential(
        _Transformer(symbols, length, width, layers), output_linear(width, classes)
    )
