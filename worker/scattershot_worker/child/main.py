"""Owns the warm child process: torch, the device and the data stay, trials come and go.

Started by the supervisor as `python -m scattershot_worker.child.main FD` with its settings in the
environment; they speak JSON lines over the socket FD. It never outlives its supervisor.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_worker.attempt.attempt import StopSignal

#: The environment variable that carries the settings.
SETTINGS = "SCATTERSHOT_CHILD"
#: Lanes that a worker may come to want, for all that is known before its first trial.
AUTO_LANES = 32
#: The exit status of a child that could not begin, as no other could that is started like it.
UNUSABLE = os.EX_CONFIG
#: Seconds between two words that the trial gets on.
_TELL_EVERY = 1.0


@dataclass(frozen=True)
class ChildSettings:
    """What a child needs to know. The Redis URL travels in the environment like the rest."""

    redis: str
    worker: str
    root: str
    device: str
    threads: int
    paths: tuple[str, ...]
    allow: tuple[str, ...] = ()
    #: Trials that may be trained at a time; 0: as many as is fastest.
    lanes: int = 0

    def to_json(self) -> str:
        """Return the settings as text for the environment."""
        return json.dumps(asdict(self))


class SupervisorLine:
    """The line to the supervisor: trials to run, signals for those that run, words back."""

    def __init__(self, line: socket.socket) -> None:
        self.trials: queue.SimpleQueue[tuple[dict[str, Any], StopSignal]] = queue.SimpleQueue()
        self._line, self._lock = line, threading.Lock()
        #: StopSignal of all attempts that are not over, by study, trial and attempt.
        self._signals: dict[tuple[Any, ...], StopSignal] = {}
        for work in (self._listen, self._tell):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def say(self, **message: object) -> None:
        """Send the supervisor a message; any thread may."""
        with self._lock:
            self._line.sendall((json.dumps(message) + "\n").encode())

    def began(self, info: StudyInfo) -> None:
        """Tell what study is worked on."""
        self.say(began=asdict(info))

    def took(self, text: str, number: int, signature: str, key: tuple[str, int, int]) -> StopSignal:
        """Tell of a lane that was claimed; return what its stops arrive in."""
        signals = self._signals[key] = StopSignal()
        self.say(took=text, number=number, signature=signature)
        return signals

    def ended(self, key: tuple[str, int, int], outcome: Outcome, reason: str) -> None:
        """Tell how an attempt went."""
        self._signals.pop(key, None)
        self.say(attempt=key, outcome=outcome, reason=reason)

    def wants(self, lanes: int) -> None:
        """Tell how many trials may be trained at a time."""
        self.say(lanes=lanes)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it left without hearing us out
            for text in self._line.makefile("r"):
                message = json.loads(text)
                key = tuple(message["attempt"])
                if message["do"] == "run":
                    # made here, not when the trial begins: a stop may come right behind
                    self._signals[key] = StopSignal()
                    self.trials.put((message, self._signals[key]))
                elif signals := self._signals.get(key):
                    signals.set(StopReason(message["do"]))
        os._exit(0)  # the supervisor is gone: a trial must not go on unwatched

    def _tell(self) -> None:
        """Tell that training gets on while it does: that this thread lives is no sign of it."""
        told: dict[StopSignal, int] = {}
        while True:
            time.sleep(_TELL_EVERY)
            now = {signals: signals.progress for signals in [*self._signals.values()]}
            if any(told.get(signals) != progress for signals, progress in now.items()):
                with contextlib.suppress(OSError):  # `_listen` ends the process
                    self.say(progress=sum(now.values()))
            told = now


def main() -> None:
    """Run trials until the supervisor closes the line."""
    # what is imported stays: the collector need not go through it, neither now, nor every time
    gc.disable()
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The supervisor sends it before it ends a trial that hangs: where goes to the worker's log,
    # even from C code that lets no other thread run.
    faulthandler.register(signal.SIGUSR1)
    line = SupervisorLine(socket.socket(fileno=int(sys.argv[1])))
    settings = ChildSettings(**json.loads(os.environ.pop(SETTINGS)))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    sys.path[:0] = settings.paths

    torch = _torch()

    from scattershot_common.bus.connection import connect
    from scattershot_common.bus.queue_scan import WaitingTrials
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

    gc.freeze()
    gc.enable()
    line.say(ready=str(context.device))
    while True:
        message, signals = line.trials.get()
        job = message["spec"], int(message["number"]), message["signature"]
        serve(context, pack_cache, line, *job, signals)
        line.say(free=True)


def _warm_up(torch: Any) -> None:
    """Have torch import what it would import with the first optimizer: a second, or more."""
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
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()
        torch.backends.cudnn.deterministic = True  # the same trial gives the same numbers
        torch.backends.cudnn.benchmark = False
    return device


if __name__ == "__main__":
    main()
