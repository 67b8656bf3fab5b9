"""The picture of a trial's first weights: tiles as a worker records them, as a PNG."""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: The side that a tile is enlarged to, in pixels, by whole factors.
_SIDE = 64


def first_layer_png(layers: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Return a PNG of the last first weights recorded; None if there are none, or damaged ones."""
    for record in reversed(layers):
        if tiles := record.get("picture"):
            try:
                pixels = np.frombuffer(base64.b64decode(tiles["pixels"], validate=True), np.uint8)
                return _png(_grid(pixels.reshape(tiles["shape"])))
            except (binascii.Error, ValueError, LookupError, TypeError):
                return None
    return None


def _grid(tiles: np.ndarray) -> np.ndarray:
    """Return tiles [N, height, width, channels] in one image, enlarged, white lines between."""
    count, height, width, channels = tiles.shape
    factor = max(1, _SIDE // max(height, width))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    gap = max(1, factor // 2)
    height, width = height * factor + gap, width * factor + gap
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count, :-gap, :-gap] = tiles
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)[:-gap, :-gap]


def _png(pixels: np.ndarray) -> bytes:
    """Return uint8 [height, width, 1 or 3] as a PNG (W3C, "PNG specification")."""
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each starts with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
