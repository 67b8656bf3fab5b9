"""The store of one study's checkpoints: what a backend does, and what follows from it for any.

A *key* is the place of a file below the store's root, with "/" between its parts, as `trial_key`
returns it: `trials/00017/error.txt`. Writing a checkpoint takes the serializer of the side that
has the tensors:

    data = seal(safetensors.torch.save(tensors, metadata(header)))
    store.write(trial_key(17, checkpoint_name(...)), data)

Whatever goes wrong is raised as CheckpointError, in one line that says what to do; as its subclass
StoreUnreachable where not the file but the whole store is at fault.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from scattershot_common.errors import CheckpointError, StoreUnreachable, StudyFileError
from scattershot_common.local_files import disk_error
from scattershot_common.store.checkpoint_header import MAX_HEADER, Header, damaged, parse, verify
from scattershot_common.store.checkpoint_names import parse_name, trial_key

if TYPE_CHECKING:
    import numpy as np

_OWNER = "study.json"


class Checkpoint(NamedTuple):
    """A checkpoint whose checksum holds; `data` is the whole file, ready for safetensors."""

    name: str
    header: Header
    data: bytes


class Store(Protocol):
    """Where a study keeps `trials/`. A backend subclasses it and is named in `location.STORES`."""

    #: The path or the URL of the root.
    address: str

    # ---- what a backend does

    @abstractmethod
    def write(self, key: str, data: bytes | bytearray) -> None:
        """Write a whole file or nothing, replacing what was there; see `flush`."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return a file's bytes, whatever they are."""

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file of which only parts are read."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those already gone are fine.

        Goes through all of them, then raises CheckpointError for the first that would not go.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of what lies in `folder`, directly; none where there is no folder."""

    # ---- what a backend may do otherwise

    def path_of(self, key: str) -> str:
        """Return the path or URL of a file, for people and for other programs."""
        return f"{self.address}/{key}"

    def flush(self) -> None:
        """Make what was written last through a power cut. Nothing to do where `write` does."""
        return None

    def clean_stale(self, folder: str, older_than_s: float) -> list[Path]:
        """Remove and return temp files that a killed writer left; see `local_files.clean_stale`."""
        return []

    def written_at(self, key: str) -> float | None:
        """Return when a file was last written, in seconds since 1970; None where that costs."""
        return None

    def all_checkpoints(self) -> dict[int, list[str]]:
        """Return the names of every trial's checkpoints, in no order."""
        return {trial: self.checkpoints(trial) for trial in self.trials()}

    def retire(self, trials: Iterable[int]) -> None:
        """Delete all checkpoints of trials, now or soon; see `settle`.

        Raises nothing: a file that cannot be deleted costs space, not results.
        """
        for trial in trials:
            with suppress(CheckpointError):
                self.delete(trial_key(trial, name) for name in self.checkpoints(trial))

    def settle(self, timeout_s: float) -> None:
        """Wait until what was retired is deleted, `timeout_s` at most."""
        return None

    @contextmanager
    def _local_copy(self, key: str, data: bytes) -> Iterator[str]:
        """Yield the path of a file of this machine with the content `data` of `key`."""
        from tempfile import NamedTemporaryFile

        with NamedTemporaryFile() as copy:
            copy.write(data)
            copy.flush()
            yield copy.name

    # ---- what follows

    def trials(self) -> list[int]:
        """Return the numbers of the trials that have a folder, ascending."""
        return sorted(int(name) for name in self.names("trials") if name.isdigit())

    def checkpoints(self, trial: int) -> list[str]:
        """Return the names of a trial's checkpoints by epoch, ascending; none without a folder.

        Nothing is opened, so damaged files are listed too.
        """
        by_epoch = [
            (parsed.epoch, name)
            for name in self.names(trial_key(trial))
            if (parsed := parse_name(name)) and parsed.trial == trial
        ]
        return [name for _, name in sorted(by_epoch)]

    def header(self, key: str) -> Header:
        """Return a checkpoint's header; of the file only its 8 length bytes and header are read.

        Notices a file that is cut, not an altered bit: only `load` sees the checksum's whole range.
        Raises CheckpointError for anything that is not a whole checkpoint of a known format.
        """
        path = self.path_of(key)
        with self.open(key) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER or 8 + length > size:
                raise damaged(path, f"its {size} bytes do not hold its header of {length}")
            return parse(path, file.read(length), size)

    def load(self, key: str) -> bytes:
        """Return a checkpoint's bytes; raises CheckpointError where they are not as sealed."""
        data = self.read(key)
        if not verify(data):
            path = self.path_of(key)
            raise damaged(path, f"its {len(data)} bytes do not match its checksum")
        return data

    def tensors(self, key: str, prefix: str | tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return the tensors whose names start with `prefix`, or with one of several.

        The checkpoint must be as sealed. Needs no torch; dtypes are numpy's own. Raises
        CheckpointError like `load`.
        """
        from safetensors import SafetensorError, safe_open

        data = self.load(key)
        try:
            with (
                self._local_copy(key, data) as path,  # only files can be read in parts
                safe_open(path, framework="numpy") as file,
            ):
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names}
        except OSError as error:
            raise disk_error("read", self.path_of(key), error) from error
        except SafetensorError as error:
            raise damaged(self.path_of(key), str(error)) from error

    def newest_valid(
        self,
        trial: int,
        at_most: int | None = None,
        on_damaged: Callable[[CheckpointError], None] = lambda error: None,
    ) -> Checkpoint | None:
        """Return the trial's newest checkpoint that is as sealed, of epoch `at_most` or before.

        Every one that has to be passed over is told to `on_damaged`. Of two files for one epoch
        the later attempt's is taken: an earlier one comes from a worker that was taken for dead.
        Raises StoreUnreachable where not the checkpoint but the whole store is at fault.
        """
        newest_first = reversed(self.checkpoints(trial))
        for epoch, twins in groupby(newest_first, key=_epoch):
            if at_most is not None and epoch > at_most:
                continue
            valid = []
            for name in twins:
                key = trial_key(trial, name)
                try:
                    data = self.load(key)
                    raw = data[8 : 8 + int.from_bytes(data[:8], "little")]
                    valid.append(Checkpoint(name, parse(self.path_of(key), raw, len(data)), data))
                except StoreUnreachable:
                    raise
                except CheckpointError as error:
                    on_damaged(error)
            if valid:
                return max(valid, key=lambda checkpoint: checkpoint.header.get("attempt", 0))
        return None

    def claim(self, uid: str, *, by_force: bool = False) -> None:
        """Make sure that the study known by `uid` can keep its checkpoints here, and it alone.

        `by_force` takes the store from its owner: the same study, before its ledger was lost.

        Writes a small file that names the owner, the first time and every time: what is wrong
        with bucket, credentials or rights shows before any trial has been trained.

        Raises:
            StudyFileError: the checkpoints of another study of this name are here.
            CheckpointError: nothing can be kept here; says what to do.
        """
        if not by_force and self.exists(_OWNER):
            try:
                owner = json.loads(self.read(_OWNER))["uid"]
            except (ValueError, LookupError, TypeError):
                owner = None
            if owner != uid:
                raise StudyFileError(
                    f"{self.address} holds the checkpoints of another study; give this one another "
                    "name ([study] name) or another [checkpoints] store, or remove what is there"
                )
        self.write(_OWNER, (json.dumps({"uid": uid}, indent=2) + "\n").encode())
        self.flush()


def _epoch(name: str) -> int:
    parsed = parse_name(name)
    assert parsed is not None  # from Store.checkpoints
    return parsed.epoch
