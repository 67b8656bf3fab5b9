"""Settings of the process that a trial leaves behind, and that the next one must not find."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from scattershot_worker.child.process_state import ProcessState


def _open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))


CHANGES: dict[str, Callable[[], object]] = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's deterministic mode": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch's threads": lambda: torch.set_num_threads(2),
    "torch's anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "torch's flushing of denormals": lambda: torch.set_flush_denormal(True),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.backends.cudnn.benchmark": lambda: setattr(
        torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark
    ),
    "torch's global module hooks": lambda: register_module_forward_hook(lambda *_: None),
    "numpy's error handling": lambda: np.seterr(all="raise"),
    "the working folder": lambda: os.chdir("/"),
    "the environment": lambda: os.environ.update(GAMMA="0.5"),
    "the umask": lambda: os.umask(0o077),
    "the warnings filters": lambda: warnings.simplefilter("error"),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "the recursion limit": lambda: sys.setrecursionlimit(12_345),
    "the signal handlers": lambda: signal.signal(signal.SIGUSR2, lambda *_: None),
    "the timer": lambda: signal.alarm(1000),
    "the decimal context": lambda: setattr(decimal.getcontext(), "prec", 5),
    "the garbage collector": gc.disable,
    "logging's level": lambda: logging.getLogger().setLevel(1),
    "logging.disable": lambda: logging.disable(logging.CRITICAL),
    "the locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "the process's limits": _open_files,
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before, language = ProcessState(), locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")
    yield
    before.restore()
    locale.setlocale(locale.LC_ALL, language)  # whatever the tested code does


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_trial_changes_is_noticed_and_put_back(name: str) -> None:
    before = ProcessState()
    assert before.changes() == []
    CHANGES[name]()
    assert name in before.changes()
    assert before.restore() == []
    assert before.changes() == []


def test_a_working_folder_that_is_gone_is_left(tmp_path: Path) -> None:
    before = ProcessState()
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    assert before.changes() == ["the working folder"]
    assert before.restore() == [] and before.changes() == []


def test_what_cannot_be_put_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ProcessState()
    monkeypatch.setattr(os, "nice", lambda increment: 7)
    assert before.changes() == ["the process's priority"]
    assert before.restore() == ["the process's priority"]
