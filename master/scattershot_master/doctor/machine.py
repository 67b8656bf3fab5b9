"""Probes of this machine: Python, packages, devices, a Redis binary, the secret."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from urllib.parse import urlsplit

from scattershot_common.bus.server import find_binary
from scattershot_common.bus.signing import SECRET_VARIABLE, secret
from scattershot_common.errors import ScattershotError
from scattershot_common.machine import cpu_count, gpu_names
from scattershot_master.doctor.probe_result import ProbeResult, fail, ok, warn

_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps([torch.__version__, names]))
"""


def packages() -> ProbeResult:
    """Return whether Python and all that scattershot needs are installed."""
    installed, missing = [], []
    for requirement in requires("scattershot") or []:
        if ";" in requirement:  # an extra's, or another platform's
            continue
        name = re.split(r"[^\w.-]", requirement)[0]
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    python = f"Python {platform.python_version()}, scattershot {version('scattershot')}"
    if missing:
        listed = " ".join(missing)
        return fail("packages", f"{python}; not installed: {listed}", f"pip install {listed}")
    return ok("packages", f"{python}, {', '.join(installed)}")


class Torch:
    """A probe of torch and its devices by a process of its own, started early and read late."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TORCH],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, timeout_s: float = 120.0) -> ProbeResult:
        """Return what this machine could train on; a master alone needs nothing of it."""
        try:
            output, errors = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return fail(
                "devices",
                f"torch does not import within {timeout_s:.0f} s",
                "look at this machine's disk and GPU driver",
            )
        if self._process.returncode:
            last = (errors.strip().splitlines() or ["it says nothing"])[-1]
            return warn(
                "devices",
                f"torch cannot be imported ({last}): this machine cannot train",
                "pip install torch, or let other machines be the workers",
            )
        torch, names = json.loads(output)
        cores = f"{cpu_count()} CPU cores"
        if names:
            return ok("devices", f"torch {torch}, {cores}, GPU: {', '.join(names)}")
        if gpu_names():
            return warn(
                "devices",
                f"torch {torch}, {cores}; there is an NVIDIA GPU that torch cannot use",
                "install the build of torch for your driver: https://pytorch.org/get-started",
            )
        return ok("devices", f"torch {torch}, {cores}, no GPU")


def redis_binary(needed: bool) -> ProbeResult:
    """Return whether `scattershot run` finds a Redis to start; `needed` where no URL is given."""
    try:
        binary = find_binary()
    except ScattershotError as error:
        reason, _, remedy = str(error).partition(": ")
        if needed:
            return fail("embedded Redis", reason, remedy)
        return ok("embedded Redis", f"{reason}; not needed with a Redis of your own")
    command = [binary, "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    number = re.search(r"v=(\S+)", output)
    return ok("embedded Redis", f"{binary} {number[1] if number else output.strip()}")


def trust(url: str) -> Iterator[ProbeResult]:
    """Yield what protects this Redis from others who can reach it."""
    parts = urlsplit(url)
    local = parts.scheme == "unix" or (parts.hostname or "") in ("localhost", "127.0.0.1", "::1")
    if secret():
        yield ok("secret", f"{SECRET_VARIABLE} is set: workers train only what is signed with it")
    elif local:
        yield ok("secret", f"{SECRET_VARIABLE} is not set; this Redis is this machine's own")
    else:
        yield warn(
            "secret",
            f"{SECRET_VARIABLE} is not set: who can write to this Redis can have workers run any "
            "function that they can import",
            f"set the same {SECRET_VARIABLE} for the master and all workers, or give them --allow",
        )
    if not (local or parts.scheme == "rediss"):
        yield warn(
            "encryption",
            "what master and workers tell Redis, its password too, goes over the network as text",
            "use rediss:// to a Redis with TLS, or a private network",
        )
