"""Owns the warm child process: torch, the device and the data stay, trials come and go.

Started by the supervisor as `python -m scattershot_worker.child FD` with its settings in the
environment; they speak JSON lines over the socket FD. It never outlives its supervisor.
"""

from __future__ import annotations

import contextlib
import faulthandler
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

from scattershot_worker.signals import Signals

#: The environment variable that carries the settings.
SETTINGS = "SCATTERSHOT_CHILD"
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

    def to_json(self) -> str:
        """Return the settings as text for the environment."""
        return json.dumps(asdict(self))


class _Line:
    """The line to the supervisor: trials to run, signals for the one that runs, words back."""

    def __init__(self, line: socket.socket) -> None:
        self.trials: queue.SimpleQueue[tuple[dict[str, Any], Signals]] = queue.SimpleQueue()
        self._line, self._lock = line, threading.Lock()
        self._signals = Signals()
        for work in (self._listen, self._tell):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def say(self, **message: object) -> None:
        """Send the supervisor a message; any thread may."""
        with self._lock:
            self._line.sendall((json.dumps(message) + "\n").encode())

    def _listen(self) -> None:
        attempt = None
        with contextlib.suppress(OSError):  # it left without hearing us out
            for text in self._line.makefile("r"):
                message = json.loads(text)
                if message["do"] == "run":
                    # made here, not when the trial begins: a stop may come right behind
                    attempt, self._signals = message["attempt"], Signals()
                    self.trials.put((message, self._signals))
                elif message["attempt"] == attempt:
                    self._signals.set(message["do"])
        os._exit(0)  # the supervisor is gone: a trial must not go on unwatched

    def _tell(self) -> None:
        """Tell that the trial gets on while it does: that this thread lives is no sign of it."""
        told = (self._signals, 0)
        while True:
            time.sleep(_TELL_EVERY)
            signals = self._signals
            if (signals, signals.progress) != told:
                told = (signals, signals.progress)
                with contextlib.suppress(OSError):  # `_listen` ends the process
                    self.say(progress=told[1])


def main() -> None:
    """Run trials until the supervisor closes the line."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The supervisor sends it before it ends a trial that hangs: where goes to the worker's log,
    # even from C code that lets no other thread run.
    faulthandler.register(signal.SIGUSR1)
    line = _Line(socket.socket(fileno=int(sys.argv[1])))
    settings = ChildSettings(**json.loads(os.environ.pop(SETTINGS)))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    sys.path[:0] = settings.paths

    torch = _torch()

    from scattershot.bus.connection import connect
    from scattershot.bus.queue import TrialSpec
    from scattershot.bus.signing import SECRET_VARIABLE, fits, secret
    from scattershot.errors import ScattershotError
    from scattershot_worker.job import Bench, refuse, run_trial
    from scattershot_worker.reporter import Reporter

    torch.set_num_threads(settings.threads)
    bench = Bench(
        connection=connect(settings.redis, retries=120),
        worker=settings.worker,
        root=Path(settings.root),
        device=_device(torch, settings.device),
        reporter=Reporter(),
        studies={},
        allow=tuple(settings.allow),
    )

    line.say(ready=str(bench.device))
    while True:
        message, signals = line.trials.get()
        spec, number = TrialSpec.from_json(message["spec"]), int(message["number"])
        try:
            if not fits(message["spec"], message["signature"], secret()):
                raise ScattershotError(f"its signature is not of this worker's {SECRET_VARIABLE}")
            outcome, reason = run_trial(
                bench, spec, number, signals, lambda info: line.say(began=asdict(info))
            )
        except ScattershotError as error:
            outcome, reason = refuse(bench, spec, number, str(error))
        line.say(outcome=outcome, reason=reason)


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
