"""Fixtures of all tests: a Redis server, a fake one, an object store, the cache folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scattershot_common.bus.connection import connect
from scattershot_common.bus.server import EmbeddedServer
from support import s3_server
from support.redis_backends import ConnectRedis, fake, real


@pytest.fixture(autouse=True, scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lanes are measured once: all test processes, and what they start, share a cache folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis of this test process alone; its database 0 is empty when a test begins."""
    with pytest.MonkeyPatch.context() as patch:
        beside_python = str(Path(sys.executable).parent)
        patch.setenv("PATH", beside_python, prepend=os.pathsep)
        server = EmbeddedServer(tmp_path_factory.mktemp("redis"))
        url = server.start()
    yield url
    server.stop()


@pytest.fixture(autouse=True)
def _empty_database(request: pytest.FixtureRequest) -> None:
    if "redis_url" in request.fixturenames:
        connect(request.getfixturevalue("redis_url")).flushdb()


@pytest.fixture(params=["fakeredis", pytest.param("redis", marks=pytest.mark.slow)])
def connect_redis(request: pytest.FixtureRequest) -> ConnectRedis:
    """Open connections to an empty database: `connect_redis(decode=False)` as `connect` does.

    A test that uses it runs on fakeredis in the fast tier, on a real server in the slow one.
    """
    if request.param == "fakeredis":
        return fake()
    url = request.getfixturevalue("redis_url")
    connect(url).flushdb()
    return real(url)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an object store of this test process alone."""
    with s3_server.server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3: str) -> Iterator[str]:
    """The URL of an empty bucket, which this process and those it starts can write to."""
    with pytest.MonkeyPatch.context() as patch:
        s3_server.use(s3, patch)
        yield s3_server.make_bucket()
