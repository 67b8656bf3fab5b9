"""The `mnist` and `fashion_mnist` tasks, read from their original IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data
from scattershot_worker.tasks.base import ImageTask, data_folder, missing_files, shuffled, split

_VAL = 10_000
_TYPES = {0x08: np.uint8}


class Mnist(ImageTask):
    """Handwritten digits of 28×28 pixels; the hyperparameters are those of `ImageTask.model`.

    The folder is `[study] data`, else $SCATTERSHOT_DATA/mnist, else data/mnist. Of the 60,000
    training images 10,000, always the same, are the validation part.
    """

    name: ClassVar[str] = "mnist"
    shape = (1, 28, 28)

    def data(self) -> Data:
        """Return images [N, 784], scaled by the training part's mean and deviation, and labels.

        Raises:
            TaskError: files are missing or damaged; says which, and where they were looked for.
        """
        files = find_files(self.name, data_folder(self.folder, self.name))
        images, labels = read_idx(files[0]), read_idx(files[1])
        test_images, test_labels = read_idx(files[2]), read_idx(files[3])
        order, train = shuffled(len(images)).numpy(), len(images) - _VAL
        pixels = np.concatenate([images[order], test_images])
        x = torch.as_tensor(pixels.reshape(len(pixels), -1), dtype=torch.float32)
        y = torch.as_tensor(np.concatenate([labels[order], test_labels]), dtype=torch.int64)
        mean, deviation = x[:train].mean(), x[:train].std()
        x.sub_(mean).div_(deviation)
        return split(x, y, train, _VAL)


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
    paths: list[Path] = []
    missing: list[str] = []
    for name in _FILES:
        candidates = [folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx")]
        existing = [path for path in candidates if path.is_file()]
        paths += existing[:1]
        if not existing:
            missing.append(f"{name}[.gz]")
    if missing:
        raise missing_files(task, "its original IDX files", missing, folder)
    return paths


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
