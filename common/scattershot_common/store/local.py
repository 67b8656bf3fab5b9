"""Checkpoints in a folder of this machine or of a file system that all machines share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from scattershot_common import local_files
from scattershot_common.errors import CheckpointError
from scattershot_common.local_files import Syncer, disk_error
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.store.store import Store


class LocalStore(Store):
    """A study's folder. What is written is on the disk after the next `flush`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.address = str(folder)
        self._syncer = Syncer()

    def path_of(self, key: str) -> str:
        return str(self.folder / key)

    def write(self, key: str, data: bytes | bytearray) -> None:
        path = os.path.join(self.address, key)
        local_files.write(path, data, sync=False)
        self._syncer.note(path)

    def flush(self) -> None:
        self._syncer.flush()

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        try:
            with open(self.folder / key, "rb") as file:
                yield file
        except OSError as error:
            raise disk_error("read", self.path_of(key), error) from error

    def exists(self, key: str) -> bool:
        return (self.folder / key).exists()

    def delete(self, keys: Iterable[str]) -> None:
        failed: list[CheckpointError] = []
        for key in keys:
            try:
                (self.folder / key).unlink(missing_ok=True)
            except OSError as error:
                failed.append(disk_error("remove", self.path_of(key), error))
        if failed:
            raise failed[0]

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.folder / folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(
                f"cannot list {self.path_of(folder)}: {reason}; make it readable"
            ) from error

    def clean_stale(self, folder: str, older_than_s: float) -> list[Path]:
        return local_files.clean_stale(self.folder / folder, older_than_s)

    def written_at(self, key: str) -> float | None:
        return (self.folder / key).stat().st_mtime

    def retire(self, trials: Iterable[int]) -> None:
        for trial in trials:
            with suppress(CheckpointError, OSError):
                keys = [trial_key(trial, name) for name in self.checkpoints(trial)]
                self.delete(keys)
                if keys:
                    (self.folder / trial_key(trial)).rmdir()  # stays where a traceback is in it

    @contextmanager
    def _local_copy(self, key: str, data: bytes) -> Iterator[str]:
        yield self.path_of(key)
