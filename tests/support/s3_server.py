"""An object store for tests: moto's server, and one bucket of it for each test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from urllib.request import Request, urlopen

import pytest

#: Nobody needs to know them; tests look for them where they must not be.
KEY, SECRET = "AKIAOFTHETEST", "the-secret-of-the-test"
_buckets = count(1)


@contextmanager
def server() -> Iterator[str]:
    """Run a server on a free port of loopback; yield its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables by which a process finds the server, and gives up at once on none."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }


def use(endpoint: str, patch: pytest.MonkeyPatch) -> None:
    """Let this process work with the store at `endpoint`."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            patch.delenv(name)
    for name, value in environment(endpoint).items():
        patch.setenv(name, value)
    forget()


def forget() -> None:
    """Let this process make its connections anew: they keep endpoint and credentials."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def make_bucket() -> str:
    """Make a bucket of its own; return its URL."""
    name = f"bucket-{next(_buckets)}"
    # a plain request: a client of its own would take a hundred times as long
    request = Request(f"{os.environ['AWS_ENDPOINT_URL']}/{name}", method="PUT")
    with urlopen(request):
        return f"s3://{name}"
