"""The processes of a chaos run: Redis, master and workers, each restarted when it ends.

The master and each worker reach Redis by a proxy of their own, so that each can be cut off.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from redis.exceptions import RedisError

from chaos.proxy import Proxy
from cluster.conftest import command, environment
from scattershot_common.bus.connection import URL_VARIABLE
from scattershot_common.bus.keys import Keys
from scattershot_common.bus.server import find_binary
from scattershot_common.bus.workers import living_workers
from scattershot_common.machine import die_with_parent
from scattershot_master.state.ledger import LEDGER

#: Seconds between two starts of one process, as a service manager would wait.
RESTART_AFTER = 1.0


class Service:
    """A command that is started again whenever it ends, until it is `done`."""

    def __init__(
        self, name: str, argv: Sequence[str], env: dict[str, str], log: Path, proxy: Proxy
    ) -> None:
        self.name, self.proxy = name, proxy
        #: Ends that no signal of ours explains: "worker-1 ended with status 1".
        self.surprises: list[str] = []
        self._argv, self._env, self._log = list(argv), env, log
        self._told = False  # to end, by a signal
        self.done = False
        self.start()

    def start(self) -> None:
        """Start the command."""
        self._started, self._told = time.monotonic(), False
        with self._log.open("ab") as log:
            self.process = psutil.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def tend(self) -> None:
        """Start the command again if it has ended; a master that ends with 0 is done."""
        status = self.process.poll()
        if status is None or self.done:
            return
        if self.name == "master" and status == 0:
            self.done = True
            return
        if time.monotonic() - self._started < RESTART_AFTER:
            return
        # SIGTERM itself ends what had not yet come to handling it
        asked = (-signal.SIGKILL, -signal.SIGTERM, 130 if self.name == "master" else 0)
        if not self._told or status not in asked:
            self.surprises.append(f"{self.name} ended with status {status}")
        self.start()

    def send(self, number: int) -> None:
        """Send the command itself a signal."""
        self._told |= number in (signal.SIGKILL, signal.SIGTERM)
        send(self.process, number)

    def child(self) -> psutil.Process | None:
        """Return a worker's oldest child, which trains, if it has one."""
        try:
            children = self.process.children()
            return min(children, key=lambda child: child.create_time(), default=None)
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        """Return whether the command runs and was not told to end."""
        return self.process.poll() is None and not self._told


class Server:
    """A real redis-server with an append-only file, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.client: Redis = Redis(port=self.port, decode_responses=True, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it with what its file holds; does not wait until it is ready."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "logfile": self._folder / "redis.log",
        }
        argv = [find_binary()]
        for name, value in options.items():
            argv += [f"--{name}", str(value)]
        self._process = subprocess.Popen(
            argv, process_group=0, preexec_fn=die_with_parent(signal.SIGKILL)
        )

    def kill(self, *, forget: bool = False) -> None:
        """SIGKILL it; with `forget` all its data goes too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if forget:
            for path in self._folder.rglob("*"):
                if path.is_file() and path.name != "redis.log":
                    path.unlink()

    def running(self) -> bool:
        """Return whether it was not killed."""
        return self._process is not None


class Cluster:
    """All of it, on the study `name` of a study file, with its output under `folder`."""

    def __init__(
        self, folder: Path, file: Path, name: str, *, workers: int, env: dict[str, str]
    ) -> None:
        self.folder, self.study = folder / "out" / name, name
        self.server = Server(folder / "redis")
        self.epochs_trained = folder / "epochs-trained"
        self._due: list[tuple[float, Callable[[], object]]] = []
        log, out = folder / "logs", str(folder / "out")
        log.mkdir()
        base = {**environment(), **env, "PYTHONUNBUFFERED": "1"}

        def service(name: str, argv: list[str], **extra: str) -> Service:
            proxy = Proxy(self.server.port)
            url = {URL_VARIABLE: f"redis://127.0.0.1:{proxy.port}/0"}
            return Service(name, argv, {**base, **url, **extra}, log / f"{name}.log", proxy)

        # the study's code is found beside the study file
        self.master = service("master", command("master", file, "--out", out))
        argv = command("worker", "--out", out, "--path", file.parent, "--device", "cpu")
        self.workers = [
            service(f"worker-{i}", argv, CHAOS_EPOCHS=str(self.epochs_trained))
            for i in range(workers)
        ]

    @property
    def services(self) -> list[Service]:
        """The master and the workers."""
        return [self.master, *self.workers]

    def tend(self) -> None:
        """Do what is due, and start again what has ended."""
        now = time.monotonic()
        ready = [action for due, action in self._due if due <= now]
        self._due = [entry for entry in self._due if entry[0] > now]
        for action in ready:
            action()
        for service in self.services:
            service.tend()

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something in a while: a fault's end."""
        self._due.append((time.monotonic() + seconds, action))

    def freeze(self, processes: Sequence[psutil.Process], seconds: float) -> None:
        """Stop processes, and let them go on in a while."""
        for process in processes:
            send(process, signal.SIGSTOP)
            self.later(seconds, partial(send, process, signal.SIGCONT))

    def running(self) -> list[dict[str, Any]]:
        """Return the hashes of the trials that run now, as Redis has them; none if it is down."""
        keys = Keys(self.study)
        client: Any = self.server.client  # a sync one that decodes; its stubs say all at once
        try:
            found = [
                {"trial": int(number), **client.hgetall(keys.trial(int(number)))}
                for number in client.zrange(keys.running, 0, -1)
            ]
        except RedisError:
            return []
        return [trial for trial in found if trial.get("state") == "running"]

    def trainer_of(self, hash_: dict[str, Any]) -> psutil.Process | None:
        """Return the process that trains a trial, given the trial's hash."""
        try:
            pids = {worker.name: worker.pid for worker in living_workers(self.server.client)}
        except RedisError:
            return None
        for worker in self.workers:
            if pids.get(hash_["worker"]) == worker.process.pid:
                return worker.child()
        return None

    def reports(self) -> list[tuple[int, int]]:
        """Return (trial, epoch) of every report in the ledger, in its order."""
        try:
            data = (self.folder / LEDGER).read_bytes()
        except FileNotFoundError:
            return []
        lines = [line for line in data.split(b"\n") if line.startswith(b'{"e":"report"')]
        found = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the torn last line
            found.append((event["t"], event["n"]))
        return found

    def settle(self) -> None:
        """End all faults that are still on."""
        due, self._due = self._due, []
        for _, action in due:
            action()

    def stop(self) -> None:
        """End the workers as a service manager does; each must do so."""
        for worker in self.workers:
            if worker.alive():  # a second signal ends one that is on its way out at once
                worker.send(signal.SIGTERM)
        for worker in self.workers:
            try:
                status = worker.process.wait(30)
            except psutil.TimeoutExpired:
                worker.surprises.append(f"{worker.name} did not stop within 30 s")
                continue
            if status not in (0, -signal.SIGTERM):
                worker.surprises.append(f"{worker.name} stopped with status {status}")

    def left(self) -> list[str]:
        """Return the command lines of the processes that are left of it, besides Redis."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            try:
                of_ours = process.environ().get(URL_VARIABLE, "") in self._urls()
            except psutil.Error:
                continue
            if of_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(f"{process.info['pid']}: {' '.join(process.info['cmdline'])}")
        return found

    def _urls(self) -> set[str]:
        return {f"redis://127.0.0.1:{service.proxy.port}/0" for service in self.services}

    def close(self) -> None:
        """Kill all that still runs."""
        for service in self.services:
            try:
                family = [*service.process.children(recursive=True), service.process]
            except psutil.NoSuchProcess:
                family = [service.process]
            for process in family:
                send(process, signal.SIGKILL)
            service.process.wait(10)
            service.proxy.close()
        self.server.kill()


def send(process: psutil.Process, number: int) -> None:
    """Send a process a signal, should it still be there."""
    with suppress(psutil.NoSuchProcess):  # it ended by itself, or by another fault
        process.send_signal(number)
