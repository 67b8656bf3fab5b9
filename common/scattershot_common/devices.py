"""Owns the words for devices that a user may write."""

from __future__ import annotations

from scattershot_common.errors import StudyFileError


def check_device(device: str) -> None:
    """Raise StudyFileError unless `device` is auto, cpu, cuda or cuda:N."""
    kind, colon, index = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and index.isdigit()):
        raise StudyFileError(f"--device {device}: write auto, cpu, cuda or cuda:N")
