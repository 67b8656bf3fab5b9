"""The checkpoints in a study's folder on this machine, as paths."""

from pathlib import Path

import numpy as np

from scattershot_common.local_files import write
from scattershot_common.store.checkpoint_header import Header, metadata, seal, verify
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.store.local import LocalStore

__all__ = ["Header", "metadata", "seal", "verify", "write"]


def trial_folder(study: Path, trial: int) -> Path:
    """Return the folder of a trial's checkpoints."""
    return study / trial_key(trial)


def list_checkpoints(study: Path, trial: int) -> list[Path]:
    """Return a trial's checkpoints by epoch."""
    return [trial_folder(study, trial) / name for name in LocalStore(study).checkpoints(trial)]


def read_header(path: Path) -> Header:
    """Return a checkpoint's header."""
    return LocalStore(path.parent).header(path.name)


def load(path: Path) -> bytes:
    """Return a checkpoint's bytes, which must be as sealed."""
    return LocalStore(path.parent).load(path.name)


def tensors(path: Path, prefix: str | tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the tensors whose names start with `prefix`."""
    return LocalStore(path.parent).tensors(path.name, prefix)
