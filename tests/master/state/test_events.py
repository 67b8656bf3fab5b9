"""Every event is written to the ledger as earlier versions wrote it, and read again."""

import json
from typing import Any, get_args

import pytest

from scattershot_common.trial import STATES
from scattershot_master.state import events
from scattershot_master.state.ledger import encode
from scattershot_master.state.study_state import StudyState
from support.pretend_master import image
from support.synthetic_study import Simulation

#: A line of each event, as version 0.1.0 wrote it.
LINES = """\
{"e":"study","uid":"u","version":"0.1.0","study":{"study":{"name":"n"}},"at":1.5}
{"e":"study","uid":"u","version":"0.1.0","study":{},"recovered":true,"at":1.5}
{"e":"settings","study":{},"at":1.5}
{"e":"home","folder":"/here","data":null,"at":1.5}
{"e":"home","folder":"/here","data":"/there","at":1.5}
{"e":"stage","stage":"coarse","index":0,"target":9,"box":[[[0.0,1.0]]],"notes":[],"at":1.5}
{"e":"stage","stage":"f","index":1,"target":1,"trials":[3],"epochs":9,"until":[9],"notes":["n"],"at":2}
{"e":"closed","index":0,"at":1.5}
{"e":"sampled","t":0,"p":{"lr":0.1},"epochs":4,"until":1,"at":1.5}
{"e":"started","t":0,"a":1,"c":"5-1","w":"host-1","at":1.5}
{"e":"started","t":0,"a":1,"w":"host-1","at":1.5}
{"e":"report","t":0,"a":1,"c":"5-1","n":1,"m":{"val_accuracy":NaN,"loss":Infinity},"f":""}
{"e":"report","t":0,"a":1,"n":1,"m":{},"f":"val_accuracy=0.5-trial=00000-epoch=001.safetensors"}
{"e":"waiting","t":0,"a":1,"c":"5-1","r":"gone","y":"lost","at":1.5}
{"e":"waiting","t":0,"a":1,"y":"hold","at":1.5}
{"e":"paused","t":0,"a":1,"c":"5-1","r":"","y":"","at":1.5}
{"e":"complete","t":0,"a":1,"c":"5-1","r":"","y":"","at":1.5}
{"e":"killed","t":0,"a":1,"r":"by hand","at":1.5}
{"e":"failed","t":0,"a":1,"c":"5-1","r":"ValueError: no","y":"","at":1.5}
{"e":"kill","t":0,"r":"median rule","at":1.5}
{"e":"settled","n":1,"go":[1],"kill":[[0,"x"]],"until":3,"at":1.5}
{"e":"kind","c":"5-1","s":"abc","k":"fused","r":"2.1 times as fast","at":1.5}
{"e":"ensemble","ensemble":{"members":[]},"at":1.5}
{"e":"finished","at":1.5}
{"e":"stop","c":"5-1","at":1.5}
{"e":"skipped","c":"5-1","at":1.5}
""".splitlines()


@pytest.mark.parametrize("line", LINES)
def test_an_event_is_written_as_it_was_read(line: str) -> None:
    event = events.read(json.loads(line))
    assert encode(event) == line.encode() + b"\n"


def test_every_type_of_event_has_a_line_here() -> None:
    types = {type(events.read(json.loads(line))) for line in LINES}
    assert types == {*get_args(events.LedgerEvent)} - {events.Unknown}


def test_an_event_of_a_later_version_counts_by_its_cursor_alone() -> None:
    state = StudyState()
    before = image(state)
    state.apply(events.read({"e": "later", "t": 3, "at": 1.0}))
    assert image(state) == before
    state.apply(events.read({"e": "later", "t": 3, "c": "7-0", "at": 1.0}))
    assert state.cursor == "7-0"
    with pytest.raises(ValueError, match="no event of this version"):
        events.write(events.Unknown("later"))


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert events.read({"e": "kill", "t": 1, "r": "so", "z": 1}) == events.KillAsked(1, "so")


@pytest.mark.parametrize("line", [{"e": "kill", "t": 1}, {"e": "started", "t": 1, "w": "x"}, {}])
def test_a_key_that_must_be_there_is_missed(line: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        events.read(line)


def test_a_change_has_the_name_of_the_state_it_leads_to() -> None:
    for state in {*STATES} - {"running"}:
        assert events.write(events.TrialChanged(state, 1, 1, at=2.0))["e"] == state


def test_lines_are_applied_like_the_events_that_they_are() -> None:
    lines = [json.loads(json.dumps(line)) for line in Simulation().events()]
    together, singly = StudyState(), StudyState()
    together.apply_lines(lines)
    for line in lines:
        singly.apply(events.read(line))
    assert image(together) == image(singly)
    assert len(singly.trials) > 50
