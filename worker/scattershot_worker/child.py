"""Owns the warm child process: torch, the device and the data stay, trials come and go.

Started by the supervisor as `python -m scattershot_worker.child FD` with its settings in the
environment; they speak JSON lines over the socket FD. It never outlives its supervisor.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scattershot_worker.signals import Signals

#: The environment variable that carries the settings.
SETTINGS = "SCATTERSHOT_CHILD"


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


class _Inbox:
    """What the supervisor says: trials to run, and signals for the one that runs."""

    def __init__(self, line: socket.socket) -> None:
        self.trials: queue.SimpleQueue[tuple[dict[str, Any], Signals]] = queue.SimpleQueue()
        self._line = line
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def _listen(self) -> None:
        attempt, signals = None, Signals()
        for text in self._line.makefile("r"):
            message = json.loads(text)
            if message["do"] == "run":
                # made here, not when the trial begins: a stop may come right behind
                attempt, signals = message["attempt"], Signals()
                self.trials.put((message, signals))
            elif message["attempt"] == attempt:
                signals.set(message["do"])
        os._exit(0)  # the supervisor is gone: a trial must not go on unwatched


def main() -> None:
    """Run trials until the supervisor closes the line."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = socket.socket(fileno=int(sys.argv[1]))
    inbox = _Inbox(line)
    settings = ChildSettings(**json.loads(os.environ.pop(SETTINGS)))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    sys.path[:0] = settings.paths

    import torch

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

    def say(**message: object) -> None:
        line.sendall((json.dumps(message) + "\n").encode())

    say(ready=str(bench.device))
    while True:
        message, signals = inbox.trials.get()
        spec, number = TrialSpec.from_json(message["spec"]), int(message["number"])
        try:
            if not fits(message["spec"], message["signature"], secret()):
                raise ScattershotError(f"its signature is not of this worker's {SECRET_VARIABLE}")
            outcome, reason = run_trial(
                bench, spec, number, signals, lambda info: say(began=asdict(info))
            )
        except ScattershotError as error:
            outcome, reason = refuse(bench, spec, number, str(error))
        say(outcome=outcome, reason=reason)


def _device(torch: Any, wanted: str) -> Any:
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
