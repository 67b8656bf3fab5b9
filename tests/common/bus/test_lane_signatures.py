"""Signatures: how their trials are trained is settled once for a study."""

from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.stream import EventStream
from support.redis_backends import ConnectRedis


def test_the_first_choice_holds_and_the_master_reads_of_it_once(
    connect_redis: ConnectRedis,
) -> None:
    connection = connect_redis()
    assert Signatures(connection, "digits").mode("ab") is None
    assert Signatures(connection, "digits").settle("ab", "fused", "4 times as fast") == "fused"
    assert Signatures(connection, "digits").settle("ab", "alone", "no gain") == "fused"
    assert Signatures(connection, "digits").settle("cd", "alone", "no gain") == "alone"
    assert Signatures(connection, "digits").mode("ab") == "fused"
    assert Signatures(connection, "mnist").mode("ab") is None
    events = EventStream(connection, "digits").read("", block_ms=None)
    assert [
        (event.kind, event.trial, event.worker, event.why, event.reason) for event in events
    ] == [
        ("kind", -1, "ab", "fused", "4 times as fast"),
        ("kind", -1, "cd", "alone", "no gain"),
    ]


def test_what_redis_lost_is_given_back(connect_redis: ConnectRedis) -> None:
    connection = connect_redis()
    Signatures(connection, "digits").restore({})
    Signatures(connection, "digits").restore({"ab": "alone"})
    assert Signatures(connection, "digits").settle("ab", "fused", "") == "alone"
    assert EventStream(connection, "digits").read("", block_ms=None) == []
