"""Owns the picture of the first layer's weights: one tile per unit that looks at an image.

CS231n, "First-layer visualizations": noisy tiles show a network that has not converged, a rate
set wrongly or too little regularization; smooth and diverse ones that training goes well.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from torch import Tensor

#: Tiles in a picture, at most, and the largest side of one.
TILES, SIDE = 16, 64


def picture(parameters: Iterable[Tensor]) -> str:
    """Return a model's first weights as a PNG in a data: URL; "" where they look at no images.

    A conv layer's must have 1 or 3 channels and at least 3x3 weights; a linear layer's inputs must
    be a square, or three (8x8, 28x28, 3x32x32).
    """
    for parameter in parameters:
        if parameter.dim() > 1:
            tiles = _tiles(parameter.detach()[:TILES])
            return "" if tiles is None else _url(_sheet(tiles))
    return ""


def _tiles(weight: Tensor) -> np.ndarray | None:
    """Return uint8 [tiles, height, width, channels], each tile from 0 to 255, or None."""
    if weight.dim() == 4:
        channels, height, width = weight.shape[1:]
    elif weight.dim() == 2:
        inputs = weight.shape[1]
        channels = next((c for c in (1, 3) if math.isqrt(inputs // c) ** 2 * c == inputs), 0)
        height = width = math.isqrt(inputs // channels) if channels else 0
    else:
        return None
    if channels not in (1, 3) or not (3 <= height <= SIDE and 3 <= width <= SIDE):
        return None
    tiles = weight.float().cpu().numpy().reshape(len(weight), -1)
    tiles = np.where(np.isfinite(tiles), tiles, 0)
    tiles -= tiles.min(axis=1, keepdims=True)
    span = tiles.max(axis=1, keepdims=True)
    tiles *= 255 / np.where(span > 0, span, 1)
    pixels: np.ndarray = np.rint(tiles).astype(np.uint8)
    return pixels.reshape(len(weight), channels, height, width).transpose(0, 2, 3, 1)


def _sheet(tiles: np.ndarray) -> np.ndarray:
    """Return the tiles side by side, a white pixel apart: uint8 [height, width, channels]."""
    count, height, width, channels = tiles.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * columns, height + 1, width + 1, channels), 255, np.uint8)
    sheet[:count, :height, :width] = tiles
    grid = sheet.reshape(rows, columns, height + 1, width + 1, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def _url(pixels: np.ndarray) -> str:
    """Return uint8 [height, width, 1 or 3] as a PNG (W3C, "PNG specification")."""
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    # stored, not compressed: weights are noise, of which a tenth could be saved
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 0)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()
