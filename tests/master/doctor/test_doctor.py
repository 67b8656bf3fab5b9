"""The probes of `scattershot doctor`, one by one and as a command."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rq.command import PUBSUB_CHANNEL_TEMPLATE

from scattershot_common.bus.connection import URL_VARIABLE, connect
from scattershot_common.bus.queue import LOOK
from scattershot_common.bus.signing import SECRET_VARIABLE
from scattershot_common.bus.workers import (
    Heartbeat,
    living_workers,
    look_for_folder,
    redis_time,
    write_heartbeat,
)
from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import check_probe, create_probe, remove_probe
from scattershot_master.doctor import machine, server, storage, workers
from scattershot_master.doctor.probe_result import ProbeResult
from scattershot_master.state.ledger import LEDGER, Ledger
from support.synthetic_study import Simulation
from support.waiting import eventually

OWN = version("scattershot")


def doctor(*words: str | Path, cwd: Path, **more: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the command's exit code, and its findings by what they are about."""
    kept = {key: one for key, one in os.environ.items() if not key.startswith("SCATTERSHOT")}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "scattershot"), "doctor", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, **more},
        timeout=200,
    )
    assert "Traceback" not in done.stderr, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    assert told["ok"] == all(one["level"] != "fail" for one in told["checks"])
    return done.returncode, {one["about"]: one for one in told["checks"]}


class PretendWorker:
    """A worker that is there, and answers what it sees of `root` when it is asked."""

    def __init__(self, url: str, name: str, root: Path | None, version: str = OWN) -> None:
        self._connection = connect(url)
        write_heartbeat(self._connection, Heartbeat(name, name, 1, "cpu", version, 0.0))
        self.pubsub: Any = self._connection.pubsub()  # type: ignore[no-untyped-call]
        self.pubsub.subscribe(PUBSUB_CHANNEL_TEMPLATE % name)
        self._name, self._root = name, root
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._end.is_set():
            message: Any = self.pubsub.get_message(ignore_subscribe_messages=True, timeout=0.05)
            if message and self._root is not None:
                payload = json.loads(message["data"])
                assert payload["command"] == LOOK
                look_for_folder(self._connection, self._name, self._root, payload["nonce"])

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def pretend(redis_url: str) -> Iterator[Callable[..., PretendWorker]]:
    there: list[PretendWorker] = []

    def make(name: str, root: Path | None, version: str = OWN) -> PretendWorker:
        there.append(PretendWorker(redis_url, name, root, version))
        return there[-1]

    yield make
    for one in there:
        one.stop()


# ---- the command


def test_a_machine_without_a_redis_named_can_run_a_study(tmp_path: Path) -> None:
    code, found = doctor(cwd=tmp_path)
    assert code == 0
    assert {one["level"] for one in found.values()} == {"ok"}
    assert f"scattershot {OWN}" in found["packages"]["found"]
    assert "torch " in found["devices"]["found"] and "CPU cores" in found["devices"]["found"]
    assert "to be made" in found["storage"]["found"]
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_a_cluster_is_looked_at_from_redis_to_the_workers(
    redis_url: str, tmp_path: Path, pretend: Callable[..., PretendWorker]
) -> None:
    for name in ("a", "b"):
        pretend(name, tmp_path)
    code, found = doctor(tmp_path, cwd=tmp_path, **{URL_VARIABLE: redis_url})
    assert code == 0, found
    assert found["redis"]["found"].endswith(redis_url.rpartition("@")[2])
    assert found["persistence"]["found"] == "AOF is on"
    assert found["workers"]["found"] == "2 on 2 machines: 2 on cpu"
    assert found["shared folder"]["found"] == (f"2 of 2 workers see {tmp_path} and can write to it")
    assert {"memory", "clients", "latency", "clock", "secret", "versions"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_workers_is_told_with_what_to_do(
    redis_url: str, tmp_path: Path, pretend: Callable[..., PretendWorker]
) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    pretend("good", here)
    pretend("lost", elsewhere)
    pretend("silent", None)
    pretend("old", here, "0.0.1")
    code, found = doctor(
        here, "--redis", redis_url, "--wait", "1", cwd=tmp_path, **{URL_VARIABLE: "redis://x:1"}
    )
    assert code == 1
    assert found["versions"]["level"] == "fail"
    assert "old has 0.0.1" in found["versions"]["found"]
    # the last of the two lines about it
    assert found["shared folder"]["level"] == "warn"
    assert "no answer within 1 s from silent" in found["shared folder"]["found"]


def test_a_redis_that_does_not_answer_fails_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    url = "redis://:s3cr3t@127.0.0.1:1/0"
    code, found = doctor(cwd=tmp_path, **{URL_VARIABLE: url})
    assert code == 1
    assert found["redis"]["level"] == "fail"
    assert "no Redis answers at redis://127.0.0.1:1/0" in found["redis"]["found"]
    assert found["redis"]["do"] == "start one, or check the address"
    assert found["devices"]["level"] == "ok" and "workers" not in found
    assert "s3cr3t" not in json.dumps(found)


def test_a_study_is_read_and_a_damaged_one_is_sent_to_recover(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "digits")
    Simulation().run(100, to=ledger)
    ledger.close()
    code, found = doctor(tmp_path / "digits", cwd=tmp_path)
    assert code == 0
    assert found["study"]["found"].startswith("digits: ")
    assert found["storage"]["found"] == f"{tmp_path} can be written"
    path = tmp_path / "digits" / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"{rubbish\n", *lines[5:]]))
    code, found = doctor(tmp_path / "digits", cwd=tmp_path)
    assert code == 1
    assert "line 6 of ledger.jsonl is damaged" in found["study"]["found"]
    assert found["study"]["do"] == f"scattershot recover {tmp_path / 'digits'}"


def test_it_is_told_in_lines_for_people_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "scattershot"), "doctor", "/proc/nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("fail")]
    assert line.split()[:2] == ["fail", "storage"]
    assert "→ change its owner or mode, or use --out" in done.stdout


# ---- Redis, by what it tells of itself


GOOD: dict[str, Any] = {
    "redis_version": "7.0.15",
    "role": "master",
    "aof_enabled": 1,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "used_memory": 2**20,
}


@pytest.mark.parametrize(
    ("look", "info", "level", "found"),
    [
        (server.persistence, {}, "ok", "AOF is on"),
        (server.persistence, {"aof_enabled": 0}, "warn", "AOF is off"),
        (server.persistence, {"rdb_last_bgsave_status": "err"}, "fail", "rdb_last_bgsave_status"),
        (server.persistence, {"aof_last_write_status": "err"}, "fail", "went wrong"),
        (server.memory, {}, "ok", "1 MiB used of what the machine has"),
        (server.memory, {"maxmemory_policy": "allkeys-lru"}, "warn", "would throw trials away"),
        (
            server.memory,
            {"maxmemory_policy": "allkeys-lru", "maxmemory": 2**30},
            "fail",
            "1 MiB used of 1.0 GiB, maxmemory-policy allkeys-lru: when full it throws trials away",
        ),
        (server.memory, {"maxmemory": 2**20}, "warn", "1 MiB used of 1 MiB"),
    ],
)
def test_what_redis_tells_of_itself(
    look: Callable[[dict[str, Any]], ProbeResult], info: dict[str, Any], level: str, found: str
) -> None:
    finding = look({**GOOD, **info})
    assert (finding.level, found in finding.observation) == (level, True), finding
    assert bool(finding.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("info", "level", "found"),
    [
        ({}, "ok", "redis 7.0.15 at redis://host"),
        ({"redis_version": "6.2.0"}, "ok", "redis 6.2.0"),
        ({"redis_version": "6.0.16"}, "fail", "redis 6.0.16"),
        ({"redis_version": "5.0"}, "fail", "redis 5.0"),
        ({"server_name": "valkey", "valkey_version": "8.1.0"}, "ok", "valkey 8.1.0"),
        ({"role": "slave"}, "fail", "a replica"),
        ({"cluster_enabled": 1}, "fail", "cluster mode"),
    ],
)
def test_which_redis_it_may_be(info: dict[str, Any], level: str, found: str) -> None:
    finding = server.server({**GOOD, **info}, "redis://:s3cr3t@host")
    assert (finding.level, found in finding.observation) == (level, True), finding
    assert "s3cr3t" not in finding.observation


def test_a_redis_with_few_connections_left_is_told(redis_url: str) -> None:
    admin: Any = connect(redis_url)
    before = admin.config_get("maxclients")["maxclients"]
    try:
        admin.config_set("maxclients", 100)
        (found,) = [one for one in server.check(admin, redis_url) if one.subject == "clients"]
        assert found.level == "warn"
        assert "connected of 100: room for about" in found.observation
    finally:
        admin.config_set("maxclients", before)
    (found,) = [one for one in server.check(admin, redis_url) if one.subject == "clients"]
    assert found.level == "ok"


@pytest.mark.parametrize(
    ("offset", "level", "word"),
    [(0.0, "ok", ""), (60.0, "warn", "behind"), (-60.0, "warn", "ahead")],
)
def test_a_clock_that_is_off_is_told(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, offset: float, level: str, word: str
) -> None:
    real = redis_time
    monkeypatch.setattr(server, "redis_time", lambda connection: real(connection) + offset)
    latency, clock = server.latency(connect(redis_url))
    assert clock.level == level and word in clock.observation
    assert "median of 20" in latency.observation


def test_a_user_without_rights_is_told(redis_url: str) -> None:
    admin: Any = connect(redis_url)
    admin.execute_command("ACL SETUSER", "nobody", "on", ">x", "~*", "+ping", "+auth")
    try:
        url = f"redis://nobody:x@{redis_url.rpartition('@')[2]}"
        (found,) = server.check(connect(url), url)
        assert found.level == "fail" and "INFO is refused" in found.observation
    finally:
        admin.execute_command("ACL DELUSER", "nobody")


# ---- storage


def test_an_output_root_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    found = list(storage.check(tmp_path))
    assert [one.subject for one in found] == ["storage", "rename", "fsync", "locks", "space"]
    assert {one.level for one in found[:4]} == {"ok"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_root_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", Path("/proc/nowhere/at/all")):
        (found,) = storage.check(root)
        assert found.level == "fail" and "cannot be written" in found.observation


def refused(*_: object) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


def test_a_file_system_that_lacks_what_is_needed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        patch.setattr(os, "fsync", refused)
        patch.setattr(fcntl, "flock", refused)
        looks = (storage.rename, storage.sync, storage.locks)
        found = [look(tmp_path) for look in looks]
    assert [one.level for one in found] == ["fail"] * 3
    assert all("Operation not supported" in one.observation for one in found)


def test_locks_that_keep_nobody_out_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert storage.locks(tmp_path).level == "fail"


@pytest.mark.parametrize(
    ("gib", "files", "level"),
    [(10.0, 10**6, "ok"), (1.0, 10**6, "warn"), (0.1, 10**6, "fail"), (10.0, 99, "warn")],
)
def test_room_that_runs_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, files: int, level: str
) -> None:
    stat = namedtuple("stat", "f_bavail f_frsize f_favail f_files")
    monkeypatch.setattr(os, "statvfs", lambda _: stat(int(gib * 2**20), 1024, files, 10**7))
    assert storage.space(tmp_path).level == level


def test_workers_that_see_another_folder_are_named(
    redis_url: str, tmp_path: Path, pretend: Callable[..., PretendWorker]
) -> None:
    roots = {name: tmp_path / name for name in ("here", "copy", "gone")}
    roots["here"].mkdir()
    roots["copy"].mkdir()
    for name, root in roots.items():
        pretend(name, root)
    found = list(storage.seen_by(connect(redis_url), roots["here"], [*roots], 20.0))
    assert [one.level for one in found] == ["fail"]
    assert found[0].observation == (
        f"copy: its {roots['copy']} is another folder; gone: its {roots['gone']} is not there"
    )
    assert str(roots["here"]) in found[0].remedy
    assert list(roots["here"].iterdir()) == []


# ---- what a worker looks for


@pytest.mark.parametrize("nonce", ["", "../x", "a" * 31, "A" * 32, "a" * 32 + "\n", "/etc/passwd"])
def test_a_worker_looks_for_no_name_but_those_that_are_hidden(tmp_path: Path, nonce: str) -> None:
    assert check_probe(tmp_path, nonce) == "asked for a name that is none"
    assert list(tmp_path.iterdir()) == []


def test_a_hidden_file_is_found_in_its_folder_alone_and_can_be_cleaned_away(tmp_path: Path) -> None:
    nonce = create_probe(tmp_path)
    assert check_probe(tmp_path, nonce) == ""
    assert check_probe(tmp_path / "other", nonce) == "is not there"
    (tmp_path / "other").mkdir()
    assert check_probe(tmp_path / "other", nonce) == "is another folder"
    assert check_probe(tmp_path, "0" * 32) == "is another folder"
    remove_probe(tmp_path, nonce)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_answer_does_not_stay_in_redis(redis_url: str, tmp_path: Path) -> None:
    connection: Any = connect(redis_url)
    look_for_folder(connection, "w", tmp_path, "0" * 32)
    (key,) = connection.keys("ss:look:*")
    assert 0 < connection.ttl(key) <= 60


# ---- this machine


@pytest.mark.parametrize(
    ("url", "key", "levels"),
    [
        ("redis://127.0.0.1:1", "", {"secret": "ok"}),
        ("redis://localhost", "", {"secret": "ok"}),
        ("unix:///tmp/redis.sock", "", {"secret": "ok"}),
        ("redis://10.0.0.1", "", {"secret": "warn", "encryption": "warn"}),
        ("redis://10.0.0.1", "secret", {"secret": "ok", "encryption": "warn"}),
        ("rediss://10.0.0.1", "", {"secret": "warn"}),
        ("rediss://10.0.0.1", "secret", {"secret": "ok"}),
    ],
)
def test_what_stands_between_a_redis_and_others(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, levels: dict[str, str]
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, key)
    found = list(machine.trust(url))
    assert {one.subject: one.level for one in found} == levels
    assert not key or key not in found[0].observation.replace(SECRET_VARIABLE, "")


def test_a_machine_without_a_redis_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise ScattershotError("no redis-server on this machine: install one (apt-get …)")

    monkeypatch.setattr(machine, "find_binary", none)
    found = machine.redis_binary(needed=True)
    assert (found.level, found.remedy) == ("fail", "install one (apt-get …)")
    assert machine.redis_binary(needed=False).level == "ok"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["no-such-thing>=2", "rq>=3.0,<4", "other; extra == 'x'"]
    monkeypatch.setattr(machine, "requires", lambda _: needed)
    found = machine.packages()
    assert (found.level, found.remedy) == ("fail", "pip install no-such-thing")


def test_a_machine_without_torch_is_no_worker_but_may_be_a_master(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_TORCH", "raise ModuleNotFoundError('No module named torch')")
    found = machine.Torch().result()
    assert found.level == "warn"
    assert "No module named torch" in found.observation and "cannot train" in found.observation


def test_the_master_looks_at_torch_without_importing_it() -> None:
    code = (
        "import sys; from scattershot_master.doctor import machine; "
        "assert machine.Torch().result().level == 'ok'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workers_are_counted_by_device_and_machine() -> None:
    there = [
        Heartbeat("a", "one", 1, "cuda:0", OWN, 0.0),
        Heartbeat("b", "one", 2, "cuda:1", OWN, 0.0),
        Heartbeat("c", "two", 3, "cpu", OWN, 0.0),
    ]
    count, versions = workers.check(there)
    assert count.observation == "3 on 2 machines: 1 on cpu, 2 on cuda"
    assert versions.level == "ok"
    (none,) = workers.check([])
    assert none.level == "warn"


def test_a_worker_of_another_version_is_heard_of_though_it_tells_other_things(
    redis_url: str,
) -> None:
    connection: Any = connect(redis_url)
    told = {"name": "new", "beat": redis_time(connection), "version": "9", "mood": "good"}
    connection.hset("ss:workers", "new", json.dumps(told))
    (one,) = eventually(lambda: living_workers(connection))
    assert (one.name, one.version, one.device) == ("new", "9", "?")
