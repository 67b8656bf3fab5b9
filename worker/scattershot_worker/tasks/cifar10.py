"""The `cifar10` task: photographs, read from the files of its binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data
from scattershot_worker.tasks.base import ImageTask, data_folder, missing_files, shuffled, split

_VAL = 5_000
_UNPACKED = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"


class Cifar10(ImageTask):
    """Photographs of 32×32 pixels, 10 classes (Krizhevsky 2009); see `ImageTask.model`.

    The folder is `[study] data`, else $SCATTERSHOT_DATA/cifar10, else data/cifar10; it holds the
    six .bin files, or the archive's own folder with them. Of the 50,000 training images 5,000,
    always the same, are the validation part.
    """

    shape = (3, 32, 32)

    def data(self) -> Data:
        """Return images [N, 3, 32, 32], every channel scaled by the training part, and labels.

        Raises:
            TaskError: files are missing or damaged; says which, and where they were looked for.
        """
        folder = data_folder(self.folder, "cifar10")
        if (folder / _UNPACKED).is_dir():
            folder /= _UNPACKED
        missing = [name for name in (*_TRAIN, _TEST) if not (folder / name).is_file()]
        if missing:
            raise missing_files(
                "cifar10", "the files of its binary version, unpacked", missing, folder
            )
        records = np.concatenate([self._read(folder / name) for name in _TRAIN])
        order, train = shuffled(len(records)).numpy(), len(records) - _VAL
        records = np.concatenate([records[order], self._read(folder / _TEST)])
        y = torch.as_tensor(records[:, 0], dtype=torch.int64)
        x = torch.as_tensor(records[:, 1:], dtype=torch.float32).reshape(-1, *self.shape)
        for channel in range(3):  # in place: a copy of all would take another 700 MB
            pixels = x[:, channel]
            deviation, mean = torch.std_mean(pixels[:train])
            pixels.sub_(mean).div_(deviation)
        return split(x, y, train, _VAL)

    def _read(self, path: Path) -> np.ndarray:
        """Return the records of a file, [N, 3073] bytes: a label and 3 × 1,024 pixels."""
        try:
            values = np.fromfile(path, np.uint8)
        except OSError as error:
            raise TaskError(f"{path} cannot be read: {error.strerror}") from None
        length = 1 + 3 * 32 * 32
        if not len(values) or len(values) % length or values[::length].max() >= self.classes:
            raise TaskError(
                f"{path} is not a whole file of CIFAR-10's binary version; fetch it again"
            )
        return values.reshape(-1, length)
