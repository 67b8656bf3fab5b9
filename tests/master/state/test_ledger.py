import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.errors import ScattershotError
from scattershot_master.state import ledger as module
from scattershot_master.state.ledger import LEDGER, Ledger, parse, read
from scattershot_master.state.study_state import StudyState
from support.pretend_master import image, study_file
from support.synthetic_study import Simulation, event

STUDY = study_file().model_dump(mode="json", by_alias=True)


def begin(folder: Path) -> Ledger:
    """Return the ledger of a study with one stage."""
    ledger = Ledger(folder)
    ledger.append(event("study", uid="u1", study=STUDY))
    ledger.append(event("stage", stage="coarse", index=0, target=99, box=[]))
    ledger.commit()
    return ledger


def sample(ledger: Ledger, number: int) -> None:
    ledger.append(event("sampled", t=number, p={"lr": 0.1}, epochs=4, until=4))


def numbers(folder: Path) -> list[int]:
    return sorted(read(folder).trials)


def test_what_was_committed_is_there_when_the_ledger_is_read_again(tmp_path: Path) -> None:
    ledger = begin(tmp_path)
    sample(ledger, 0)
    assert numbers(tmp_path) == []
    assert sorted(ledger.state.trials) == [0]
    ledger.commit()
    assert numbers(tmp_path) == [0]
    sample(ledger, 1)
    ledger.close()
    again = Ledger(tmp_path)
    assert sorted(again.state.trials) == [0, 1]
    again.close()


def test_the_fold_of_the_file_is_the_board_in_memory(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    Simulation().run(to=ledger)
    ledger.commit()
    assert len(ledger.state.trials) > 50
    assert image(read(tmp_path)) == image(ledger.state)
    ledger.close()


values = st.floats() | st.integers() | st.text() | st.booleans() | st.none()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(st.text(), values | st.lists(values))))
def test_whatever_is_appended_is_read_back_as_it_was(events: list[dict[str, Any]]) -> None:
    whole = [{**event, "e": "x"} for event in events]
    data = b"".join(json.dumps(event).encode() + b"\n" for event in whole)
    found, sound = parse(data)
    assert json.dumps(found) == json.dumps(whole)
    assert sound == len(data)


def test_numbers_that_are_none_survive_the_file(tmp_path: Path) -> None:
    ledger = begin(tmp_path)
    sample(ledger, 0)
    metrics = {"val_accuracy": math.nan, "val_loss": math.inf}
    ledger.append(event("report", t=0, a=1, n=1, m=metrics, f=""))
    ledger.close()
    line = read(tmp_path).trials[0].history[0]
    assert math.isnan(line["val_accuracy"])
    assert line["val_loss"] == math.inf


# ---- damage


@pytest.mark.parametrize(
    "tail", [b'{"e":"sam', b"{", b"\0\0\0\0\0", b'{"e":"sampled","t":1}', b'{"e":"x"\rgarbage']
)
@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_a_torn_last_line_is_cut_and_the_ledger_goes_on(
    tmp_path: Path, tail: bytes, newline: bytes
) -> None:
    ledger = begin(tmp_path)
    sample(ledger, 0)
    ledger.close()
    path = tmp_path / LEDGER
    sound = path.read_bytes()
    if (tail + newline).endswith(b"}\n"):
        tail = tail[:-1]
    path.write_bytes(sound + tail + newline)
    assert numbers(tmp_path) == [0]
    assert path.read_bytes() == sound + tail + newline  # who only looks changes nothing
    again = Ledger(tmp_path)
    assert path.read_bytes() == sound
    sample(again, 1)
    again.close()
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-3],
        lambda line: b"",
        lambda line: b"\0" * len(line),
        lambda line: b"17",
        lambda line: b"null",
        lambda line: b'"e"',
        lambda line: line.replace(b'"e"', b'"f"'),
        lambda line: line.replace(b",", b"\n", 1),
    ],
)
def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path, damage: Any) -> None:
    ledger = begin(tmp_path)
    for number in range(4):
        sample(ledger, number)
    ledger.close()
    path = tmp_path / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = damage(lines[3].rstrip(b"\n")) + b"\n"
    path.write_bytes(b"".join(lines))
    for look in (read, Ledger):
        with pytest.raises(ScattershotError, match=r"line 4 of ledger.jsonl is damaged; restore"):
            look(tmp_path)
    path.write_bytes(b"".join(lines[:3]))  # as the message says
    again = Ledger(tmp_path)
    assert sorted(again.state.trials) == [0]
    again.close()


def test_a_line_broken_in_two_is_not_taken_for_whole(tmp_path: Path) -> None:
    # put together again with a comma, the halves would make sense
    lines = b'{"e":"x","p":[1\n2]}\n{"e":"y"}\n'
    with pytest.raises(ScattershotError, match="line 1"):
        parse(lines)


def test_an_empty_file_is_a_study_that_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / LEDGER).touch()
    with pytest.raises(ScattershotError, match="has not begun"):
        read(tmp_path)
    ledger = Ledger(tmp_path)
    assert image(ledger.state) == image(StudyState())
    ledger.close()


def test_a_folder_without_a_ledger_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ScattershotError, match=r"there is no study in .*ledger.jsonl is missing"):
        read(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


# ---- one master


def test_a_second_master_on_the_folder_is_refused(tmp_path: Path) -> None:
    ledger = begin(tmp_path)
    with pytest.raises(ScattershotError, match=r"another master runs the study in .*; stop it"):
        Ledger(tmp_path)
    assert read(tmp_path).uid == "u1"  # looking is free
    ledger.close()
    Ledger(tmp_path).close()


def test_the_lock_is_given_back_when_the_ledger_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(b'{"e":"x"}\nbad\n{"e":"x"}\n')
    with pytest.raises(ScattershotError, match="line 2") as kept:
        Ledger(tmp_path)
    path.write_bytes(b'{"e":"x"}\n')
    Ledger(tmp_path).close()
    assert kept.value


def test_opening_a_sound_ledger_does_not_touch_it(tmp_path: Path) -> None:
    begin(tmp_path).close()
    os.utime(tmp_path / LEDGER, (1, 1))
    Ledger(tmp_path).close()
    assert (tmp_path / LEDGER).stat().st_mtime == 1


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScattershotError, match="cannot be written: File exists"):
        Ledger(tmp_path / "file")


# ---- the disk


@pytest.mark.parametrize("kind", ["study", "stage", "settled"])
def test_what_nothing_in_redis_tells_of_is_on_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ledger = begin(tmp_path)
    synced: list[int] = []
    monkeypatch.setattr("scattershot_master.state.ledger.os.fsync", synced.append)
    ledger.append(event("settings", study=STUDY))
    ledger.commit()
    assert not synced
    fields: dict[str, dict[str, Any]] = {
        "study": {"study": STUDY, "uid": "u1"},
        "stage": {"stage": "fine", "index": 1, "target": 1},
        "settled": {"n": 1, "go": [], "kill": [], "until": 3},
    }
    ledger.append(event(kind, **fields[kind]))
    ledger.commit()
    assert synced
    ledger.close()


def test_decisions_are_on_the_disk_at_once_and_the_rest_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("scattershot_master.state.ledger.os.fsync", synced.append)
    monkeypatch.setattr(module, "_SYNC_EVERY", 1e9)
    ledger = begin(tmp_path)
    assert len(synced) == 1
    sample(ledger, 0)
    ledger.append(event("started", t=0, a=1, w="w1", c="5-0"))
    ledger.commit()
    assert (len(synced), ledger.synced_cursor) == (1, "")
    ledger.append(event("settled", n=1, go=[], kill=[], until=3))
    ledger.commit()
    assert (len(synced), ledger.synced_cursor) == (2, "5-0")
    ledger.append(event("report", t=0, a=1, n=1, m={"val_accuracy": 0.5}, f="", c="6-0"))
    ledger.commit()
    monkeypatch.setattr(module, "_SYNC_EVERY", -1.0)
    assert ledger.synced_cursor == "5-0"
    ledger.commit()
    assert (len(synced), ledger.synced_cursor) == (3, "6-0")
    ledger.commit(sync=True)  # there is nothing left to sync
    assert len(synced) == 3
    ledger.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_refuses_is_an_error_and_loses_nothing_committed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    ledger = begin(tmp_path)
    sample(ledger, 0)
    ledger.commit()

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    class Refusing:
        def write(self, data: bytes) -> None:
            refuse()

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    file = ledger._file
    if call == "write":
        ledger._file = Refusing()  # type: ignore[assignment]
    else:
        monkeypatch.setattr("scattershot_master.state.ledger.os.fsync", refuse)
    sample(ledger, 1)
    expected = "cannot be written: Input/output" if code == errno.EIO else "the disk is full: .*run"
    with pytest.raises(ScattershotError, match=expected):
        ledger.commit(sync=True)
    file.close()
    assert numbers(tmp_path)[0] == 0


# ---- a kill


WRITER = """
import sys
from pathlib import Path
from scattershot_master.state.events import TrialSampled
from scattershot_master.state.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
first = len(ledger.state.trials)
for number in range(first, first + 10**9):
    ledger.append(TrialSampled(number, {"lr": 0.1, "note": "x" * 50}, 4, 4))
    if number % 7 == 0:
        ledger.commit()
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_every_committed_event(tmp_path: Path) -> None:
    begin(tmp_path).close()
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _ in range(50):
            last = int(process.stdout.readline())
        process.kill()
        last = int(([str(last), *process.stdout.read().split("\n")[:-1]])[-1])
        process.wait()
        process.stdout.close()
        found = numbers(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) > last
