"""The device of a child: what it trains on, and the line where it is not there."""

from __future__ import annotations

import pytest
import torch

from scattershot_worker.child.main import _use


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Let torch see two CUDA devices; return those that are made the current one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    return chosen


@pytest.mark.parametrize(("wanted", "index"), [("cuda", 0), ("cuda:1", 1), ("auto:3", 1)])
def test_a_gpu_that_is_there_is_used(two_gpus: list[torch.device], wanted: str, index: int) -> None:
    assert _use(torch, wanted) == torch.device("cuda", index)
    assert two_gpus == [torch.device("cuda", index)]


def test_a_gpu_too_many_is_told_with_those_there_are(two_gpus: list[torch.device]) -> None:
    with pytest.raises(RuntimeError, match="torch sees only cuda:0 to cuda:1 on this machine"):
        _use(torch, "cuda:2")
    assert two_gpus == []


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="sees no CUDA device on this machine; use --device"):
        _use(torch, wanted)


def test_metal_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="sees no Metal device"):
        _use(torch, "mps")
