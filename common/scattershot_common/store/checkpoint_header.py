"""The header of a checkpoint, and the checksum that covers the whole file.

A checkpoint is a safetensors file. Its metadata map has two entries: "scattershot", our header
as JSON, and "checksum", the first half of the SHA-256 of the whole file with the checksum's own 32
places zeroed, so that header, tensors and length are all covered. Histories may hold NaN and
infinities: our JSON uses Python's tokens for them (NaN, Infinity, -Infinity).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NotRequired, TypedDict, cast

from scattershot_common.errors import CheckpointError
from scattershot_common.trial import Value

FORMAT = 1
#: What safetensors itself allows; keeps a flipped bit in the length from asking for exabytes.
MAX_HEADER = 100_000_000

_UNSEALED = b"0" * 32
#: Inside the header's JSON text every quote is escaped, so this matches the real entry only.
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{32})"')


class Header(TypedDict):
    """What a checkpoint says about itself; the worker may add keys of its own."""

    format: int  #: of this header, set by `metadata`
    study: str
    trial: int
    attempt: int  #: of the worker that wrote it, from 1
    epoch: int  #: epochs done, from 1
    params: dict[str, Value]
    seed: int
    metric: str
    goal: str  #: "maximize" or "minimize"
    value: float  #: the metric at `epoch`, not rounded
    history: list[dict[str, float]]  #: one record per epoch: "epoch" and the metrics
    state: NotRequired[object]  #: JSON skeleton of what is no tensor in the optimizer's state


def metadata(header: Mapping[str, object], history: Sequence[str] = ()) -> dict[str, str]:
    """Return the metadata map to hand to the safetensors serializer, followed by `seal`.

    JSON rules apply to `header`: keys come back as strings, tuples as lists. `history` may be given
    apart, as the JSON of each of its records: an epoch adds one, all before it stay as they are.
    """
    text = json.dumps({"format": FORMAT, **header})
    if history:
        text = f'{text[:-1]}, "history": [{", ".join(history)}]}}'
    return {"scattershot": text, "checksum": _UNSEALED.decode()}


def seal(data: bytes) -> bytearray:
    """Return a serialized file with its checksum filled in.

    Raises ValueError where `metadata` was not given to the serializer.
    """
    at = _checksum_at(data)
    if at is None:
        raise ValueError("no place for the checksum: serialize with metadata(header)")
    sealed = bytearray(data)
    sealed[at : at + 32] = _digest(data, at)
    return sealed


def verify(data: bytes | bytearray | memoryview) -> bool:
    """Return whether a whole file is as it was sealed: not torn, not cut, no bit flipped."""
    at = _checksum_at(data)
    return at is not None and bytes(data[at : at + 32]) == _digest(data, at)


def _checksum_at(data: bytes | bytearray | memoryview) -> int | None:
    """Return where the 32 places of the checksum begin."""
    end = 8 + int.from_bytes(data[:8], "little")
    match = _CHECKSUM.search(data, 8, end) if end <= len(data) else None
    return match.start(1) if match else None


def _digest(data: bytes | bytearray | memoryview, at: int) -> bytes:
    view = memoryview(data)
    state = sha256(view[:at])
    state.update(_UNSEALED)
    state.update(view[at + 32 :])
    return state.hexdigest()[:32].encode()


def parse(path: str, raw: bytes, size: int) -> Header:
    """Return the header in `raw`, the JSON of a file of `size` bytes.

    Raises CheckpointError where it is none of ours, of another format, or asks for another size.
    """
    try:
        layout = json.loads(raw)
        texts = layout.pop("__metadata__")
        end = 8 + len(raw) + max((entry["data_offsets"][1] for entry in layout.values()), default=0)
        header = json.loads(texts["scattershot"])
        written = header["format"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not a scattershot checkpoint's") from error
    if end != size:
        raise damaged(path, f"it has {size} bytes, its header asks for {end}")
    if written != FORMAT:
        raise CheckpointError(
            f"{path} is written in format {written!r}, this scattershot reads {FORMAT}: "
            "use the version that wrote it"
        )
    return cast(Header, header)


def damaged(path: str, what: str) -> CheckpointError:
    """Return the error for a file that cannot be trusted."""
    return CheckpointError(f"{path} is damaged: {what}; the checkpoint before it is used")
