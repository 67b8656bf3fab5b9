"""A Redis that comes back from a crash without its last moments, so shortly that nobody noticed."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scattershot_common.bus import trial_state
from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys
from scattershot_common.bus.server import EmbeddedServer
from scattershot_master.search import redis_study, search
from scattershot_master.state.study_state import StudyState
from support.pretend_master import Master, Watcher, study_file, table
from support.pretend_worker import PretendWorkers
from support.tiers import fast_first
from support.waiting import eventually

STUDY = study_file()
KEYS = Keys(STUDY.study.name)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.02)
    monkeypatch.setattr(trial_state, "LEASE", 0.3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    with PretendWorkers(server.url, 1):
        master = Master(server.url, tmp_path_factory.mktemp("undisturbed"), STUDY)
        assert master.run()
    return table(master.state)


_PICTURE = """
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  table.insert(all, key)
  table.insert(all, redis.call('DUMP', key))
end
return all
"""


class Memory:
    """Takes a picture of Redis at one moment of a search, and puts it back at a later one.

    The moments are numbers of epochs that were reported; the later one as the master has read
    it, or, if `unread`, as the workers have been told.
    """

    def __init__(self, url: str, moments: tuple[int, int], *, unread: bool) -> None:
        self._redis: Any = connect(url, decode=False)
        self._first, self._second = moments
        self._unread = unread
        self._picture: dict[bytes, bytes] = {}
        self.lost = self.restarted = False

    def look(self, state: StudyState) -> None:
        epochs = sum(trial.done for trial in state.trials.values())
        if not self._picture and epochs >= self._first:
            flat = self._redis.eval(_PICTURE, 0)
            self._picture = dict(zip(flat[::2], flat[1::2], strict=True))
            told = self._redis.xlen(KEYS.events)
            end = time.monotonic() + 1  # all may wait at a rung
            while self._unread and time.monotonic() < end:
                if self._redis.xlen(KEYS.events) >= told + self._second - self._first:
                    break
        if self._picture and not self.lost and (self._unread or epochs >= self._second):
            pipe = self._redis.pipeline()
            pipe.flushdb()
            for key, value in self._picture.items():
                pipe.restore(key, 0, value)
            pipe.execute()
            self.lost = self.restarted = True


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("seed", fast_first(range(6)))
def test_a_study_comes_to_the_same_end_though_redis_has_lost_its_last_moments(
    server: EmbeddedServer,
    undisturbed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    noticed: bool,
    unread: bool,
) -> None:
    connect(server.url).flushdb()
    rng = random.Random(seed)
    first = rng.randrange(1, 40)
    memory = Memory(server.url, (first, first + rng.randrange(1, 12)), unread=unread)

    def restarted(self: redis_study.RedisStudy) -> bool:
        was, memory.restarted = memory.restarted, False
        return was and noticed

    # what nobody noticed is found because it is missing, a little later
    monkeypatch.setattr(redis_study, "_LOST_AFTER", 1e6 if noticed else 0.2)
    monkeypatch.setattr(redis_study.RedisStudy, "restarted", restarted)
    with PretendWorkers(server.url, 3, seed=seed):
        master = Master(server.url, tmp_path, STUDY, Watcher(memory.look, seconds=40))
        assert master.run()
    assert memory.lost
    assert table(master.state) == undisturbed


def test_a_server_that_was_started_again_is_noticed(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    try:
        master = Master(server.url, tmp_path / "out", STUDY)
        assert [master.redis_study.restarted() for _ in range(2)] == [False, False]
        process = server._process
        assert process is not None
        process.kill()
        process.wait()
        server.tend()
        eventually(lambda: connect(server.url).ping())
        assert [master.redis_study.restarted() for _ in range(2)] == [True, False]
    finally:
        server.stop()
