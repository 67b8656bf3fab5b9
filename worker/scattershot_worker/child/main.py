"""The warm child process: it keeps torch, the device and the data from trial to trial.

Started by the supervisor as `python -m scattershot_worker.child.main FD` with its settings in the
environment; they exchange `child_messages` over the socket FD. It never outlives its supervisor.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from scattershot_common.bus.outcome import Outcome
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt
from scattershot_worker.attempt.attempt import StopSignal
from scattershot_worker.child.own_signals import leave_signals_to_the_supervisor
from scattershot_worker.child_messages import (
    Began,
    Claimed,
    Ended,
    Free,
    Lanes,
    Message,
    Progress,
    Ready,
    Run,
    Stop,
    decode,
    encode,
)
from scattershot_worker.child_settings import SETTINGS, UNUSABLE, ChildSettings

#: Seconds between two messages that training gets on.
_PROGRESS_EVERY = 1.0


class SupervisorLine:
    """The line to the supervisor: attempts to run, stops for those that run, and messages back."""

    def __init__(self, line: socket.socket) -> None:
        self.jobs: queue.SimpleQueue[tuple[QueuedAttempt, StopSignal]] = queue.SimpleQueue()
        self._line, self._lock = line, threading.Lock()
        #: The stop signals of all attempts that are not over.
        self._signals: dict[AttemptKey, StopSignal] = {}
        for work in (self._listen, self._tell_progress):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send the supervisor a message; any thread may."""
        with self._lock:
            self._line.sendall(encode(message))

    def began(self, info: StudyInfo) -> None:
        """Tell what study is worked on."""
        self.send(Began(info))

    def claimed(self, attempt: QueuedAttempt) -> StopSignal:
        """Tell of an attempt that was claimed besides; return what its stops arrive in."""
        signals = self._signals[attempt.key] = StopSignal()
        self.send(Claimed(attempt))
        return signals

    def ended(self, key: AttemptKey, outcome: Outcome, reason: str) -> None:
        """Tell how an attempt went."""
        self._signals.pop(key, None)
        self.send(Ended(key, outcome, reason))

    def wants(self, lanes: int) -> None:
        """Tell how many trials may be trained at a time."""
        self.send(Lanes(lanes))

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it left without reading all
            for line in self._line.makefile("r"):
                message = decode(line)
                if isinstance(message, Run):
                    # made here, not when the trial begins: a stop may come right behind
                    signals = self._signals[message.attempt.key] = StopSignal()
                    self.jobs.put((message.attempt, signals))
                elif isinstance(message, Stop) and (running := self._signals.get(message.attempt)):
                    running.set(message.reason)
        os._exit(0)  # the supervisor is gone: a trial must not go on unwatched

    def _tell_progress(self) -> None:
        """Tell that training gets on while it does: that this thread lives is no sign of it."""
        last: dict[StopSignal, int] = {}
        while True:
            time.sleep(_PROGRESS_EVERY)
            now = {signals: signals.progress for signals in [*self._signals.values()]}
            if any(last.get(signals) != progress for signals, progress in now.items()):
                with contextlib.suppress(OSError):  # `_listen` ends the process
                    self.send(Progress())
            last = now


def main() -> None:
    """Run trials until the supervisor closes the line."""
    # what is imported stays: the collector need not go through it, neither now nor later
    gc.disable()
    leave_signals_to_the_supervisor()
    line = SupervisorLine(socket.socket(fileno=int(sys.argv[1])))
    settings = ChildSettings.from_json(os.environ.pop(SETTINGS))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    torch = _torch()

    from scattershot_common.bus.connection import connect
    from scattershot_common.bus.queue import WaitingTrials
    from scattershot_worker.attempt.lifecycle import WorkerContext
    from scattershot_worker.attempt.reporter import Reporter
    from scattershot_worker.child.pack_cache import PackCache
    from scattershot_worker.child.run_job import serve
    from scattershot_worker.fused import Tuner

    torch.set_num_threads(settings.threads)
    _warm_up(torch)
    context = WorkerContext(
        connection=connect(settings.redis, retries=120),
        worker=settings.worker,
        root=Path(settings.root),
        device=_device(torch, settings.device),
        reporter=Reporter(),
        allow=tuple(settings.allow),
    )
    waiting = WaitingTrials(connect(settings.redis, decode=False))
    pack_cache = PackCache(waiting, Tuner(settings.lanes))
    # last, so that no file of a user's that is called like a module is imported in its place
    sys.path[:0] = settings.paths

    gc.freeze()
    gc.enable()
    line.send(Ready(str(context.device)))
    while True:
        job, signals = line.jobs.get()
        usable = serve(context, pack_cache, line, job, signals)
        line.send(Free(leaves=not usable))
        if not usable:
            return


def _warm_up(torch: Any) -> None:
    """Have torch import now what it would import with the first optimizer: a second, or more."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight], lr=0.0).step()


def _torch() -> Any:
    """Return torch, or end the process with the reason why there is none."""
    try:
        import torch
    except Exception as error:  # not installed, a library that it lacks, a user's module in its way
        _give_up("torch cannot be imported", error)
    return torch


def _give_up(what: str, error: Exception) -> NoReturn:
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    print(f"scattershot: this worker cannot train, {what}: {why}", file=sys.stderr)
    sys.exit(UNUSABLE)


def _device(torch: Any, wanted: str) -> Any:
    """Return the torch device, or end the process with the reason why it cannot be used."""
    try:
        return _use(torch, wanted)
    except Exception as error:  # no GPU, no such one, a driver that is too old
        _give_up(f"the device {wanted} cannot be used", error)


def _use(torch: Any, wanted: str) -> Any:
    """Return the torch device: "auto:i" is the i-th GPU, counted round, or the CPU."""
    kind, _, index = wanted.partition(":")
    if kind != "auto":
        device = torch.device(wanted)
    elif torch.cuda.is_available():
        device = torch.device("cuda", int(index or 0) % torch.cuda.device_count())
    else:
        device = torch.device("cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("torch sees no Metal device on this machine; use --device auto or cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            there = f"only cuda:0 to cuda:{count - 1}" if count > 1 else "only cuda:0"
            there = f"sees {there}" if count else "sees no CUDA device"
            raise RuntimeError(f"torch {there} on this machine; use --device auto or cpu")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.cuda.init()
        torch.backends.cudnn.deterministic = True  # the same trial gives the same numbers
        torch.backends.cudnn.benchmark = False
    return device


if __name__ == "__main__":
    main()
