"""How trials are trained is settled once for a study."""

from scattershot.bus import kinds
from scattershot.bus.connection import connect
from scattershot.bus.stream import EventStream


def test_the_first_word_holds_and_is_told_to_the_master_once(redis_url: str) -> None:
    connection = connect(redis_url)
    assert kinds.settled(connection, "digits", "ab") is None
    assert kinds.settle(connection, "digits", "ab", "fused", "4 times as fast") == "fused"
    assert kinds.settle(connection, "digits", "ab", "alone", "no gain") == "fused"
    assert kinds.settle(connection, "digits", "cd", "alone", "no gain") == "alone"
    assert kinds.settled(connection, "digits", "ab") == "fused"
    assert kinds.settled(connection, "mnist", "ab") is None
    events = EventStream(connection, "digits").read("", block_ms=None)
    assert [(one.kind, one.trial, one.worker, one.why, one.reason) for one in events] == [
        ("kind", -1, "ab", "fused", "4 times as fast"),
        ("kind", -1, "cd", "alone", "no gain"),
    ]


def test_what_redis_lost_is_given_back(redis_url: str) -> None:
    connection = connect(redis_url)
    kinds.restore(connection, "digits", {})
    kinds.restore(connection, "digits", {"ab": "alone"})
    assert kinds.settle(connection, "digits", "ab", "fused", "") == "alone"
    assert EventStream(connection, "digits").read("", block_ms=None) == []
