"""Connections to Redis: what is retried, and what a user reads where none can be made."""

import socket
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from scattershot_common.bus.connection import URL_VARIABLE, connect, reach, safe_url, url_from
from scattershot_common.errors import ScattershotError, StudyFileError

SECRET = "s3cr3t"


def said(url: str) -> str:
    """Return what the user reads when `url` cannot be reached."""
    with pytest.raises(ScattershotError) as caught:
        reach(connect(url, retries=0), url)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_running_redis_is_reached(redis_url: str) -> None:
    reach(connect(redis_url), redis_url)


def test_a_redis_that_starts_later_is_waited_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(redis_url)
    notes: list[str] = []

    def not_yet(self: Redis) -> None:
        monkeypatch.undo()
        raise RedisConnectionError("Connection refused. Some more")

    monkeypatch.setattr(Redis, "ping", not_yet)
    reach(connection, "redis://:s3cr3t@there", wait_s=60, note=notes.append)
    assert notes == [
        "no Redis answers at redis://there (Connection refused); start one, or check the address; "
        "trying again"
    ]


def test_a_redis_that_refuses_is_not_asked_again(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://x")
    notes: list[str] = []
    with pytest.raises(ScattershotError, match="refused the password"):
        reach(connect(url), url, wait_s=600, note=notes.append)
    assert not notes


def test_text_or_bytes_come_back_as_asked_for(redis_url: str) -> None:
    connect(redis_url).set("key", "é")
    assert connect(redis_url).get("key") == "é"
    assert connect(redis_url, decode=False).get("key") == "é".encode()


def test_nobody_at_the_address_is_one_line_without_the_password() -> None:
    port = closed_port()
    message = said(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert message.startswith(f"no Redis answers at redis://127.0.0.1:{port}/0 (")
    assert SECRET not in message


def test_an_unknown_host_is_one_line_without_the_password() -> None:
    message = said(f"redis://user:{SECRET}@no-such-host.invalid:6379")
    assert "no Redis answers at redis://no-such-host.invalid:6379" in message
    assert SECRET not in message and "user" not in message


def test_a_missing_socket_is_one_line(tmp_path: Path) -> None:
    assert "no Redis answers at unix://" in said(f"unix://{tmp_path}/redis.sock?password={SECRET}")


@pytest.mark.parametrize("wrong", ["", f":{SECRET}@", f"user:{SECRET}@"])
def test_a_missing_or_wrong_password_says_where_it_belongs(redis_url: str, wrong: str) -> None:
    address = redis_url.rpartition("@")[2]
    message = said(f"redis://{wrong}{address}")
    assert f"Redis at redis://{address} refused the password" in message
    assert URL_VARIABLE in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        f"http://:{SECRET}@localhost",
        f"redis://:{SECRET}@localhost:port",
        f"redis://:{SECRET}/x@localhost:6379",
        f"redis://:x{SECRET}#y@localhost:6379",
        f"redis://:{SECRET}?@localhost:6379",
        f":{SECRET}@localhost:6379",
        "",
    ],
)
def test_what_is_no_redis_url_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(ScattershotError) as caught:
        connect(url)
    assert "is not a Redis URL; write redis://" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h:1/0?ssl_cert_reqs=none", "ssl_cert_reqs goes with rediss:// only"),
        ("rediss://h:1/0?ssl_cert_reqs=sometimes", "ssl_cert_reqs must be none, optional or req"),
        ("redis://h:1/0?socket_timout=3", "no option is called socket_timout; did you mean "),
        ("redis://h:1/0?decode_responses=1", "no option is called decode_responses ("),
        ("redis://h:1/0?socket_timeout=-1", "socket_timeout must be a number above 0"),
        ("redis://h:1/0?socket_timeout=soon", "socket_timeout must be a number above 0"),
        ("redis://h:1/0?db=first", "db must be a whole number"),
        ("unix:///tmp/redis?ssl_keyfile=k", "ssl_keyfile goes with rediss:// only"),
    ],
)
def test_an_option_that_the_client_does_not_know_is_one_line(url: str, why: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        connect(url)
    assert f"is not a Redis URL: {why}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/first",
        "redis://h:1/0/1",
        "redis://h:99999",
        "redis://h:port",
        "redis://h:-1",
        f"redis://:{SECRET[:2]}?{SECRET[2:]}=1@h:1",
        "unix:///tmp/redis?socket_keepalive=1",
        "redis://[::1",
    ],
)
def test_other_wrong_urls_are_one_line_without_the_password(url: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        connect(url)
    assert "is not a Redis URL; write redis://" in str(caught.value)
    assert SECRET[2:] not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "redis://h:1/2?socket_timeout=3&client_name=me",
        "rediss://u:p@h:1/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///tmp/redis?db=1",
    ],
)
def test_options_that_the_client_knows_are_taken(url: str) -> None:
    connect(url)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://localhost", "redis://localhost"),
        ("rediss://:s3cr3t@h:1/2", "rediss://h:1/2"),
        ("redis://:s3@cr3t@h:1", "redis://h:1"),
        ("redis://h:1/0?password=s3cr3t@x", "redis://h:1/0"),
        ("unix:///run/redis.sock?db=1&password=s3cr3t", "unix:///run/redis.sock"),
    ],
)
def test_the_password_is_left_out_wherever_it_stands(url: str, safe: str) -> None:
    assert safe_url(url) == safe


def test_a_lost_connection_is_made_again(redis_url: str) -> None:
    client = connect(redis_url)
    connect(redis_url).client_kill_filter(_id=str(client.client_id()))
    assert client.incr("counter") == 1


def test_the_flag_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert url_from(None) is None
    monkeypatch.setenv(URL_VARIABLE, "redis://environment")
    assert url_from(None) == "redis://environment"
    assert url_from("redis://flag") == "redis://flag"
