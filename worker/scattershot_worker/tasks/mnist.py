"""Owns the `mnist` and `fashion_mnist` tasks, read from their original IDX files."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from scattershot.errors import TaskError
from scattershot.task import Data, Task
from scattershot_worker.tasks.mlp import mlp

_VAL = 10_000
_TYPES = {0x08: np.uint8}


class Mnist(Task):
    """Handwritten digits of 28×28 pixels; the model's hyperparameters as in `digits`.

    The folder is `[study] data`, else $SCATTERSHOT_DATA/mnist, else data/mnist. Of the 60,000
    training images 10,000, drawn once and for all, are the validation part.
    """

    name: ClassVar[str] = "mnist"

    def data(self) -> Data:
        """Return images [N, 784], scaled by the training part's mean and deviation, and labels.

        Raises:
            TaskError: files are missing or damaged; says which, and where they were looked for.
        """
        folder = self.folder or Path(os.environ.get("SCATTERSHOT_DATA", "data")) / self.name
        files = find_files(self.name, folder)
        images, labels = read_idx(files[0]), read_idx(files[1])
        test_images, test_labels = read_idx(files[2]), read_idx(files[3])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(231))
        x, y = _floats(images)[order], torch.as_tensor(labels, dtype=torch.int64)[order]
        test_x = _floats(test_images)
        mean, deviation = x[:-_VAL].mean(), x[:-_VAL].std()
        for part in (x, test_x):
            part.sub_(mean).div_(deviation)
        test_y = torch.as_tensor(test_labels, dtype=torch.int64)
        return Data((x[:-_VAL], y[:-_VAL]), (x[-_VAL:], y[-_VAL:]), (test_x, test_y))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return a fully connected network."""
        return mlp(784, 10, params)


class FashionMnist(Mnist):
    """Clothes in the format of MNIST; the folder is data/fashion_mnist unless named."""

    name = "fashion_mnist"


_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_files(task: str, folder: Path) -> list[Path]:
    """Return the four IDX files of `folder`, plain or .gz.

    Raises:
        TaskError: names the missing ones and the folder.
    """
    found: list[Path] = []
    missing: list[str] = []
    for name in _FILES:
        candidates = [folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx")]
        existing = [path for path in candidates if path.is_file()]
        found += existing[:1]
        if not existing:
            missing.append(f"{name}[.gz]")
    if missing:
        raise TaskError(
            f"{task} needs its original IDX files; {', '.join(missing)} not found in "
            f"{folder.absolute()}: put them there, or name their folder in [study] data"
        )
    return found


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file, plain or gzipped.

    Raises:
        TaskError: it is not a whole IDX file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind, dimensions = raw[2], raw[3]
        shape = [int(n) for n in np.frombuffer(raw, ">u4", dimensions, 4)]
        values = np.frombuffer(raw, _TYPES[kind], offset=4 + 4 * dimensions)
        return values.reshape(shape).copy()  # torch warns of arrays that cannot be written to
    except (OSError, EOFError, zlib.error, IndexError, KeyError, ValueError) as error:
        raise TaskError(f"{path} is not a whole IDX file ({error}); fetch it again") from None


def _floats(images: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(images.reshape(len(images), -1), dtype=torch.float32)
