"""Owns the pixels of the first layer's weights: one tile per unit that looks at an image.

CS231n, "First-layer visualizations": noisy tiles show a network that has not converged, a rate
set wrongly or too little regularization; smooth and diverse ones that training goes well.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

#: Tiles in a picture, at most, and the largest side of one.
TILES, SIDE = 16, 64


def picture(parameters: Iterable[Tensor]) -> dict[str, Any]:
    """Return a model's first weights as tiles; nothing where they look at no images.

    "pixels" are bytes in base64, of "shape" [tiles, height, width, channels]. A conv layer's
    weights must have 1 or 3 channels and be 3x3 at least; a linear layer's inputs must be a
    square, or three (8x8, 28x28, 3x32x32).
    """
    for parameter in parameters:
        if parameter.dim() > 1:
            tiles = _tiles(parameter.detach()[:TILES])
            if tiles is None:
                return {}
            pixels = base64.b64encode(tiles.tobytes()).decode()
            return {"shape": list(tiles.shape), "pixels": pixels}
    return {}


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
