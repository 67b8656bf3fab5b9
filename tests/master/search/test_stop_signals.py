"""Signals that ask a master for a clean stop."""

import os
import signal
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest

from scattershot_common.machine import on_stop
from scattershot_master.search import run_study
from scattershot_master.search.observer import Observers

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class _Ended(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_stop_ends_the_loop_and_its_handler_is_put_back(number: signal.Signals) -> None:
    run, before = cast(Any, SimpleNamespace(stopping=False)), signal.getsignal(number)
    with run_study._stops_cleanly(run, Observers()) as signals:
        os.kill(os.getpid(), number)
        assert run.stopping
    assert signals == [number] and signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("came", "ends"),
    [
        ((signal.SIGINT, signal.SIGINT), True),
        ((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT), True),
        ((signal.SIGHUP, signal.SIGHUP, signal.SIGHUP), False),
        ((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM), False),
        ((signal.SIGTERM, signal.SIGHUP), False),
    ],
)
def test_only_a_second_ctrl_c_or_sigterm_ends_the_process(
    came: tuple[signal.Signals, ...], ends: bool
) -> None:
    run, ended = cast(Any, SimpleNamespace(stopping=False)), False
    with patch("os._exit", side_effect=_Ended), run_study._stops_cleanly(run, Observers()):
        for number in came:
            try:
                os.kill(os.getpid(), number)
            except _Ended:
                ended = True
    assert ended is ends and run.stopping


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = on_stop(lambda number, frame: None)
        assert signal.SIGHUP not in handlers
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number, handler in handlers.items():
            signal.signal(number, handler)
    finally:
        signal.signal(signal.SIGHUP, before)
