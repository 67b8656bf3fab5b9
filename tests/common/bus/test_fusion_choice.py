"""How trials are trained is settled once for a study."""

from scattershot_common.bus import fusion_choice
from scattershot_common.bus.connection import connect
from scattershot_common.bus.stream import EventStream


def test_the_first_word_holds_and_is_told_to_the_master_once(redis_url: str) -> None:
    connection = connect(redis_url)
    assert fusion_choice.settled(connection, "digits", "ab") is None
    assert fusion_choice.settle(connection, "digits", "ab", "fused", "4 times as fast") == "fused"
    assert fusion_choice.settle(connection, "digits", "ab", "alone", "no gain") == "fused"
    assert fusion_choice.settle(connection, "digits", "cd", "alone", "no gain") == "alone"
    assert fusion_choice.settled(connection, "digits", "ab") == "fused"
    assert fusion_choice.settled(connection, "mnist", "ab") is None
    events = EventStream(connection, "digits").read("", block_ms=None)
    assert [(one.kind, one.trial, one.worker, one.why, one.reason) for one in events] == [
        ("kind", -1, "ab", "fused", "4 times as fast"),
        ("kind", -1, "cd", "alone", "no gain"),
    ]


def test_what_redis_lost_is_given_back(redis_url: str) -> None:
    connection = connect(redis_url)
    fusion_choice.restore(connection, "digits", {})
    fusion_choice.restore(connection, "digits", {"ab": "alone"})
    assert fusion_choice.settle(connection, "digits", "ab", "fused", "") == "alone"
    assert EventStream(connection, "digits").read("", block_ms=None) == []
