import errno
import json
import math
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, TimeoutError

from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import QUEUE, Keys
from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.queue import TrialQueue
from scattershot_common.bus.server import EmbeddedServer
from scattershot_common.bus.stream import position
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.errors import ScattershotError
from scattershot_common.study.settings import StudyFile
from scattershot_master.search import redis_study, search
from scattershot_master.search.redis_study import stop_trial
from scattershot_master.state.ledger import LEDGER, read
from scattershot_master.state.study_state import StudyState
from support.pretend_master import STAGES, Master, Watcher, study_file, table
from support.pretend_worker import Metrics, Params, PretendWorkers, curve
from support.waiting import eventually

STUDY = study_file()
NAME = STUDY.study.name
#: What `undisturbed` found, by the study and the name of the curve.
_TABLES: dict[tuple[str, str], list[str]] = {}


@pytest.fixture(autouse=True)
def _quick_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.02)
    monkeypatch.setattr(redis_study, "_LOST_AFTER", 0.2)


@pytest.fixture
def undisturbed(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """Return the table that a study comes to on one worker to which nothing happens."""

    def run(study: StudyFile = STUDY, name: str = "as it is", **workers: Any) -> list[str]:
        key = (study.identity(), name)
        if key not in _TABLES:
            with PretendWorkers(redis_url, 1, **workers):
                master = Master(redis_url, tmp_path_factory.mktemp("undisturbed"), study)
                assert master.run()
            connect(redis_url).flushdb()
            _TABLES[key] = table(master.state)
        return _TABLES[key]

    return run


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A Redis that a test may kill."""
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def events(root: Path, kind: str = "") -> list[dict[str, Any]]:
    """Return the events of the ledger, all or those of a kind."""
    lines = (root / NAME / LEDGER).read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["e"] == kind or not kind]


def once(condition: Callable[[StudyState], object], act: Callable[[], object]) -> Watcher:
    """Return a view that acts when the study's state first fulfils the condition."""
    done = False

    def look(state: StudyState) -> None:
        nonlocal done
        if not done and condition(state):
            done = True
            act()

    return Watcher(look)


def reported(state: StudyState) -> int:
    return sum(trial.done for trial in state.trials.values())


# ---- a study, undisturbed


def test_a_study_of_three_stages_runs_to_its_end(redis_url: str, tmp_path: Path) -> None:
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    state = master.state
    assert [len(stage.trials) for stage in state.stages] == [10, 6, 3]
    assert all(stage.closed for stage in state.stages)
    assert sorted(state.trials) == list(range(16))
    final = [state.trials[number] for number in state.stages[2].trials]
    assert [trial.done for trial in final] == [8, 8, 8]
    assert {trial.state for trial in state.trials.values()} == {"complete", "killed"}
    assert state.living == 0
    assert connect(redis_url).llen(f"rq:queue:{QUEUE}") == 0


def test_every_trial_is_trained_once_for_each_of_its_epochs(redis_url: str, tmp_path: Path) -> None:
    with PretendWorkers(redis_url, 3, seed=1) as workers:
        master = Master(redis_url, tmp_path, STUDY)
        master.run()
    trained = [(trial, epoch) for trial, _, epoch in workers.trained]
    assert len(trained) == len(set(trained))
    for trial in master.state.trials.values():
        assert [line["epoch"] for line in trial.history] == list(range(1, trial.done + 1))
        assert (trial.number, trial.done + 1) not in trained


@pytest.mark.parametrize("seed", range(4))
def test_the_table_is_the_same_on_one_worker_and_on_four(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], seed: int
) -> None:
    expected = undisturbed()
    with PretendWorkers(redis_url, 4, seed=seed):
        master = Master(redis_url, tmp_path, STUDY)
        master.run()
    assert table(master.state) == expected
    assert table(read(tmp_path / NAME)) == expected


def test_waiting_trials_are_enough_for_all_workers_and_not_many_more(
    redis_url: str, tmp_path: Path
) -> None:
    stage = {"name": "only", "trials": 60, "epochs": 1}
    queued = []
    queue = TrialQueue(connect(redis_url, decode=False))
    gate = threading.Event()

    def look(state: StudyState) -> None:
        if len(state.by_state["running"]) == 5:
            queued.append(len(queue.waiting()))
            if len(queued) > 3:
                gate.set()

    with PretendWorkers(redis_url, 5, fault=lambda *_: "" if gate.is_set() else "wait"):
        Master(redis_url, tmp_path, study_file(stage=[stage]), Watcher(look)).run()
    assert queued[3] == 5


# ---- what trials do


def broken(
    numbers: set[int], seeds: dict[int, int], since: int = 1
) -> Callable[[Params, int, int], Metrics]:
    """Return a curve that is NaN from an epoch on for some trials."""

    def bent(params: Params, seed: int, epoch: int) -> Metrics:
        metrics = curve(params, seed, epoch)
        if seeds.get(seed) in numbers and epoch >= since:
            metrics = dict.fromkeys(metrics, math.nan)
        return metrics

    return bent


def seeds_of(study: StudyFile, count: int = 40) -> dict[int, int]:
    from scattershot_common.trial import trial_seed

    return {trial_seed(study.study.seed, number): number for number in range(count)}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("since", [1, 2])
def test_trials_without_a_value_never_win_whatever_the_timing(
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
    since: int,
    seed: int,
) -> None:
    bent = broken({6, 8, 11}, seeds_of(STUDY), since)
    expected = undisturbed(name=f"broken since {since}", curve=bent)
    with PretendWorkers(redis_url, 4, seed=seed, curve=bent):
        master = Master(redis_url, tmp_path, STUDY)
        master.run()
    assert table(master.state) == expected
    assert not {6, 8, 11} & set(master.state.stages[2].trials)
    assert all(master.state.trials[number].state == "killed" for number in (6, 8, 11))


@pytest.mark.parametrize("seed", range(3))
def test_diverged_trials_do_not_count_at_a_rung_whatever_the_timing(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], seed: int
) -> None:
    # 10 trials at the rung would let 4 go on, the 9 that have not diverged let 3
    study = study_file(kill={"rule": ["diverged", "sync_halving"]})
    bent = broken({0}, seeds_of(study))
    expected = undisturbed(study, "one broken", curve=bent)
    with PretendWorkers(redis_url, 4, seed=seed, curve=bent):
        master = Master(redis_url, tmp_path, study)
        master.run()
    assert table(master.state) == expected
    assert master.state.trials[0].reason == "diverged rule: its metric is nan at epoch 1"
    go, *_ = events(tmp_path, "settled")
    assert (len(go["go"]), len(go["kill"])) == (3, 6)


def test_a_study_without_any_value_ends_with_notes(redis_url: str, tmp_path: Path) -> None:
    def nothing(params: Params, seed: int, epoch: int) -> Metrics:
        return dict.fromkeys(curve(params, seed, epoch), math.nan)

    with PretendWorkers(redis_url, 2, curve=nothing):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    assert [len(stage.trials) for stage in master.state.stages] == [10, 6, 0]
    assert master.state.stages[1].notes == [
        "no trial before has a finite result: the whole space is searched again"
    ]
    assert master.state.stages[2].notes == [
        "only 0 trials are complete and can go on, of 3 asked for"
    ]


def test_failed_trials_are_left_out_and_the_study_goes_on(redis_url: str, tmp_path: Path) -> None:
    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "fail: ValueError: no such layer" if trial in (6, 8) and epoch == 2 else ""

    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    for number in (6, 8):
        trial = master.state.trials[number]
        assert (trial.state, trial.reason) == ("failed", "ValueError: no such layer")
        assert trial.done == 1
        assert number not in master.state.stages[2].trials
    assert "trial 6 failed: ValueError: no such layer" in master.view.notes


def test_a_study_whose_every_trial_fails_alike_stops_and_names_the_reason(
    redis_url: str, tmp_path: Path
) -> None:
    def fault(trial: int, attempt: int, epoch: int) -> str:
        return f"fail: ValueError: lr {trial / 7} is not for this task (tasks.py:12)"

    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, STUDY)
        with pytest.raises(ScattershotError) as error:
            master.run()
    assert "the first 3 trials all failed: ValueError: lr 0.0 is not for" in str(error.value)
    assert "--fresh" in str(error.value)
    assert len(read(tmp_path / NAME).by_state["failed"]) >= 3


def test_trials_that_fail_in_different_ways_do_not_stop_a_study(
    redis_url: str, tmp_path: Path
) -> None:
    reasons = ["ValueError: bad", "TypeError: worse", "KeyError: 'lr'"]

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return f"fail: {reasons[trial % 3]}" if trial < 9 else ""

    with PretendWorkers(redis_url, 1, fault=fault):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    assert len(master.state.by_state["failed"]) == 9


def test_trials_that_fail_alike_do_not_stop_a_study_in_which_another_one_learns(
    redis_url: str, tmp_path: Path
) -> None:
    failed = threading.Event()

    def fault(trial: int, attempt: int, epoch: int) -> str:
        if trial == 0:  # it trains on while all others fail
            return "wait" if epoch == 2 and not failed.is_set() else ""
        return "fail: ValueError: too large"

    def look(state: StudyState) -> None:
        if len(state.by_state["failed"]) == 9:
            failed.set()

    study = study_file(stage=[STAGES[0]], kill={"rule": "none"})
    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, study, Watcher(look))
        assert master.run()
    assert master.state.by_state["complete"] == {0}


# ---- faults of workers


def at(trial: int, epoch: int, word: str, times: int = 1) -> Callable[[int, int, int], str]:
    """Return a fault before an epoch of a trial, `times` times."""
    left = times

    def fault(number: int, attempt: int, before: int) -> str:
        nonlocal left
        if (number, before) != (trial, epoch) or not left:
            return ""
        left -= 1
        return word

    return fault


@pytest.mark.parametrize("word", ["vanish", "zombie", "crash", "drain", "drop"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_trial_goes_on_when_its_worker_is_lost(
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
    word: str,
    epoch: int,
) -> None:
    expected = undisturbed()
    epoch = 0 if word == "drop" else epoch
    with PretendWorkers(redis_url, 2, fault=at(6, epoch, word)) as workers:
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
        if word == "zombie":
            eventually(lambda: workers.zombie_answers)
            assert workers.zombie_answers == [StopReason.FENCED]
    assert table(master.state) == expected
    trial = master.state.trials[6]
    assert trial.failures == (0 if word in ("drain", "drop") else 1)
    notes = [note for note in master.view.notes if note.startswith("trial 6 attempt ")]
    expected_note = {"vanish": "was lost", "zombie": "was lost", "crash": "its process exited"}
    assert len(notes) == trial.failures
    assert all(expected_note[word] in note for note in notes)
    epochs = [one for number, _, one in workers.trained if number == 6]
    assert epochs == [*range(1, 9)]  # each once: it went on from its last epoch


def test_a_trial_that_loses_every_worker_fails_in_the_end(redis_url: str, tmp_path: Path) -> None:
    with PretendWorkers(redis_url, 2, fault=at(6, 2, "vanish", times=99)):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    trial = master.state.trials[6]
    assert (trial.state, trial.failures) == ("failed", 3)
    assert trial.reason == f"its worker {trial.worker} was lost"


def test_trials_that_dropped_off_the_queue_are_put_back(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]]
) -> None:
    expected = undisturbed()
    queue = f"rq:queue:{QUEUE}"
    gate = threading.Event()
    lost = []

    def lose() -> None:
        lost.append(connect(redis_url).llen(queue))
        connect(redis_url).delete(queue)
        gate.set()

    waits: Callable[..., str] = lambda *_: "" if gate.is_set() else "wait"  # noqa: E731
    view = once(lambda state: len(state.by_state["running"]) == 2, lose)
    with PretendWorkers(redis_url, 2, fault=waits):
        master = Master(redis_url, tmp_path, STUDY, view)
        assert master.run()
    assert lost[0] >= 1
    assert table(master.state) == expected


# ---- kills and stops from outside


def kill(redis_url: str, trial: int, reason: str = "by hand") -> str:
    return stop_trial(TrialStates(connect(redis_url), NAME), trial, StopReason.KILL, reason)


@pytest.mark.parametrize("trial_state", ["running", "waiting", "paused"])
def test_a_trial_killed_by_hand_ends_with_its_reason(
    redis_url: str, tmp_path: Path, trial_state: str
) -> None:
    asked: list[str] = []
    gate = threading.Event()

    def fault(trial: int, attempt: int, epoch: int) -> str:
        stuck = {"running": trial == 3, "waiting": True, "paused": trial == 9}[trial_state]
        return "wait" if stuck and not gate.is_set() else ""

    def look(state: StudyState) -> None:
        if not asked and state.trials.get(3) and state.trials[3].state == trial_state:
            asked.append(kill(redis_url, 3))
        if asked and state.trials[3].state == "killed":
            gate.set()

    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, STUDY, Watcher(look))
        assert master.run()
    assert asked == [trial_state]
    assert master.state.trials[3].state == "killed"
    (event,) = [one for one in events(tmp_path, "killed") if one["t"] == 3 and one["r"]]
    assert event["r"] == master.state.trials[3].reason == "by hand"


def test_a_killed_trial_stays_killed_when_the_study_is_stopped_right_after(
    redis_url: str, tmp_path: Path
) -> None:
    gate = threading.Event()
    master: Master

    def look(state: StudyState) -> None:
        if state.trials and state.trials[0].state == "running":
            kill(redis_url, 0)
            kill(redis_url, 0, "again")
            stop_trial(master.redis_study.states, 0, StopReason.HOLD, "")
            master.search.stopping = True
            gate.set()

    waits: Callable[..., str] = lambda *_: "" if gate.is_set() else "wait"  # noqa: E731
    with PretendWorkers(redis_url, 1, fault=waits):
        master = Master(redis_url, tmp_path, STUDY, Watcher(look))
        assert not master.run()
    trial = read(tmp_path / NAME).trials[0]
    assert (trial.state, trial.reason) == ("killed", "by hand")


def stop(redis_url: str) -> None:
    """Do what the command does."""
    from scattershot_master.commands.kill_stop import ask_to_stop

    ask_to_stop(TrialStates(connect(redis_url), NAME))


@pytest.mark.parametrize("seed", range(3))
def test_a_stopped_study_holds_its_trials_and_goes_on_as_if_nothing_had_happened(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], seed: int
) -> None:
    expected = undisturbed()
    connection = connect(redis_url)
    limits = [0, 2, 15, 25, 36, math.inf]  # of 43 epochs

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= limits[0] else ""

    with PretendWorkers(redis_url, 3, seed=seed, fault=fault) as workers:
        while len(limits) > 1:
            view = once(lambda state: reported(state) >= limits[0], lambda: stop(redis_url))
            master = Master(redis_url, tmp_path, STUDY, view)
            assert not master.run()
            state = read(tmp_path / NAME)
            assert not state.by_state["running"]
            assert connection.llen(f"rq:queue:{QUEUE}") == 0
            assert connection.zcard(Keys(NAME).running) == 0
            assert not connection.exists(Keys(NAME).master)
            limits.pop(0)
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
    assert table(master.state) == expected
    assert sum(trial.failures for trial in master.state.trials.values()) == 0


def test_a_stop_is_heeded_once_and_by_the_master_it_was_meant_for(
    redis_url: str, tmp_path: Path
) -> None:
    view = once(lambda state: state.by_state["waiting"], lambda: stop(redis_url))
    assert not Master(redis_url, tmp_path, STUDY, view).run()  # no worker: no event comes after
    first = Master(redis_url, tmp_path, STUDY)
    stop(redis_url)  # it dies before it reads it
    first.ledger.close()
    with PretendWorkers(redis_url, 2):
        assert Master(redis_url, tmp_path, STUDY, take_over=True).run()


def test_a_stop_that_nobody_can_hear_is_an_error(redis_url: str) -> None:
    with pytest.raises(ScattershotError, match="no master runs the study 'pretended'"):
        stop(redis_url)


def test_a_trial_that_crashes_while_the_study_stops_is_held_in_its_next_attempt(
    redis_url: str, tmp_path: Path
) -> None:
    connection, first = connect(redis_url), Keys(NAME).trial(0)

    def fault(trial: int, attempt: int, epoch: int) -> str:
        signal, attempts = connection.hmget(first, "signal", "attempt")
        if trial == 0 and attempt == 1:
            return "crash" if signal == "hold" else "silent"
        return "wait" if attempts == "2" else "silent"  # the others keep the master waiting

    def look(state: StudyState) -> None:
        if len(state.by_state["running"]) == 2:
            master.search.stopping = True

    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, STUDY, Watcher(look))
        # a worker was faster than the master, and has the next attempt off the queue
        master.redis_study.clear_queue = lambda waiting: None  # type: ignore[method-assign]
        assert not master.run()
    state = read(tmp_path / NAME)
    assert not state.by_state["running"]
    assert (state.trials[0].attempts, state.trials[0].failures) == (2, 1)


# ---- faults of the master


class Death(BaseException):
    """The master is gone, in the middle of whatever it was doing."""


def die() -> None:
    raise Death


class Fate:
    """Lets a master die at random before or after anything that the world can see of it."""

    def __init__(self, seed: int, deaths: int) -> None:
        self.random = random.Random(seed)
        self.left = deaths
        self.power_cut = False
        self._synced = 0

    def follow(self, master: Master) -> None:
        states, queue = master.redis_study.states, master.redis_study.queue
        self._synced = (master.ledger.path).stat().st_size
        for owner, names in (
            (master.ledger, ["commit"]),
            (master.redis_study.stream, ["read", "trim"]),
            (master.redis_study, ["find_lost", "reap", "renew"]),
            (states, ["run", "requeue", "signal", "expired", "extend_leases"]),
            (queue, ["put", "put_front", "waiting", "remove"]),
        ):
            for name in names:
                setattr(owner, name, self._mortal(getattr(owner, name), master))

    def _mortal(self, act: Callable[..., Any], master: Master) -> Callable[..., Any]:
        def mortal(*args: Any, **kwargs: Any) -> Any:
            self._perhaps(master)
            answer = act(*args, **kwargs)
            self._perhaps(master)
            return answer

        return mortal

    def _perhaps(self, master: Master) -> None:
        if self.left and self.random.random() < 0.06:
            self.left -= 1
            self._tear(master)
            raise Death

    def _tear(self, master: Master) -> None:
        """Leave what a kill in the middle of a write leaves, or a power cut what was synced."""
        pending = b"".join(master.ledger._pending)
        master.ledger._pending.clear()
        with master.ledger.path.open("ab") as file:
            file.write(pending[: self.random.randint(0, len(pending))])
            if self.power_cut:
                file.truncate(self.random.randint(self._synced, file.tell()))

    def fsync(self, handle: int) -> None:
        self._synced = os.fstat(handle).st_size


def run_to_its_end(redis_url: str, root: Path, study: StudyFile, fate: Fate) -> StudyState:
    """Start masters until one comes to the end; return its state."""
    while True:
        master = Master(redis_url, root, study, take_over=True)
        fate.follow(master)
        try:
            assert master.search.run()
            return master.state
        except Death:
            pass
        finally:
            master.ledger._file.close()


@pytest.fixture
def fate(request: pytest.FixtureRequest) -> Fate:
    return Fate(request.param, deaths=8)


@pytest.mark.parametrize("fate", range(6), indirect=True)
def test_a_master_may_die_anywhere(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], fate: Fate
) -> None:
    expected = undisturbed()
    with PretendWorkers(redis_url, 3, seed=fate.left):
        state = run_to_its_end(redis_url, tmp_path, STUDY, fate)
    assert fate.left < 4
    assert table(state) == expected
    assert [event["t"] for event in events(tmp_path, "sampled")] == list(range(16))
    assert table(read(tmp_path / NAME)) == expected


@pytest.mark.parametrize("fate", range(6), indirect=True)
def test_a_power_cut_may_take_what_the_disk_had_not_yet_got(
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
    fate: Fate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed()
    fate.power_cut = True
    monkeypatch.setattr("scattershot_master.state.ledger.os.fsync", fate.fsync)
    with PretendWorkers(redis_url, 3, seed=fate.left):
        state = run_to_its_end(redis_url, tmp_path, STUDY, fate)
    assert fate.left < 4
    assert table(state) == expected
    assert [event["t"] for event in events(tmp_path, "sampled")] == list(range(16))


def test_trials_whose_workers_went_down_with_the_master_go_on_at_once(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]]
) -> None:
    expected = undisturbed()

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= 4 else ""

    with PretendWorkers(redis_url, 3, fault=fault) as workers:
        view = once(lambda state: len(state.by_state["running"]) == 3, die)
        first = Master(redis_url, tmp_path, STUDY, view)
        with pytest.raises(Death):
            first.search.run()
        first.ledger._file.close()
    leases: Any = connect(redis_url).zrange(Keys(NAME).running, 0, -1)
    assert leases
    # even of their sampling the ledger has lost some, as after a power cut
    lines = first.ledger.path.read_bytes().splitlines(keepends=True)
    cut = next(at for at, line in enumerate(lines) if f'"t":{max(leases)},'.encode() in line)
    first.ledger.path.write_bytes(b"".join(lines[:cut]))
    with PretendWorkers(redis_url, 3):
        second = Master(redis_url, tmp_path, STUDY, workers_gone=True)
        assert second.run()
    assert table(second.state) == expected
    given_back = [event for event in events(tmp_path, "waiting") if event["y"] == "drain"]
    assert {str(event["t"]) for event in given_back} >= set(leases)
    assert sum(trial.failures for trial in second.state.trials.values()) == 0


def lapse(redis_url: str) -> None:
    """Let every lease run out."""
    connection, key = connect(redis_url), Keys(NAME).running
    for number in connection.zrange(key, 0, -1):
        connection.zadd(key, {str(number): 1})


def test_a_new_master_gives_workers_time_before_it_takes_their_trials(
    redis_url: str, tmp_path: Path
) -> None:
    looks: list[StudyState] = []

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "silent" if len(looks) < 5 else ""

    with PretendWorkers(redis_url, 2, fault=fault):
        view = once(lambda state: len(state.by_state["running"]) == 2, die)
        first = Master(redis_url, tmp_path, STUDY, view)
        with pytest.raises(Death):
            first.search.run()
        first.ledger._file.close()
        lapse(redis_url)
        second = Master(redis_url, tmp_path, STUDY, Watcher(looks.append), take_over=True)
        assert second.run()
    assert [one["a"] for one in events(tmp_path, "started") if one["t"] in (0, 1)][:2] == [1, 1]
    assert not events(tmp_path, "waiting")


def test_workers_get_time_after_an_outage(redis_url: str, tmp_path: Path) -> None:
    looks: list[StudyState] = []
    left = [TimeoutError("away")]

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "silent" if epoch == 1 and len(looks) < 12 else ""

    def act() -> None:
        if left and len(master.state.by_state["running"]) == 2:
            lapse(redis_url)
            raise left.pop()
        own()

    with PretendWorkers(redis_url, 2, fault=fault):
        master = Master(redis_url, tmp_path, STUDY, Watcher(looks.append))
        search = master.search
        own, search._carry_out = search._carry_out, act  # type: ignore[method-assign]
        assert master.run()
    assert not left
    assert not events(tmp_path, "waiting")


def test_a_master_that_never_reached_redis_can_be_stopped(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    master = Master(own_redis.url, tmp_path, STUDY)

    def keep_alive() -> None:
        master.search.stopping = True

    master.search._keep_alive = keep_alive
    own_redis.stop()
    assert not master.search.run()
    master.ledger.close()
    assert any("Redis does not answer" in note for note in master.view.notes)


# ---- faults of Redis


def test_the_study_goes_on_when_redis_comes_back_with_its_data(
    own_redis: EmbeddedServer,
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
) -> None:
    expected = undisturbed()

    def kill_redis() -> None:
        os.kill(json.loads((own_redis.folder / "server.json").read_text())["pid"], signal.SIGKILL)
        own_redis._process.wait()  # type: ignore[union-attr]

    view = once(lambda state: reported(state) >= 15, kill_redis)
    with PretendWorkers(own_redis.url, 3, seed=1):
        master = Master(own_redis.url, tmp_path, STUDY, view, keep_alive=own_redis.tend)
        assert master.run()
    assert table(master.state) == expected
    assert any(note.startswith("Redis does not answer") for note in view.notes)
    assert any(note.startswith("Redis is back") for note in view.notes)


@pytest.mark.parametrize("reports", [1, 14, 27, 39])
def test_a_redis_that_lost_everything_is_given_it_again_from_the_ledger(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], reports: int
) -> None:
    expected = undisturbed()
    emptied = threading.Event()

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= reports and not emptied.is_set() else ""

    def empty() -> None:
        connect(redis_url).flushall()
        emptied.set()

    view = once(lambda state: reported(state) >= reports, empty)
    with PretendWorkers(redis_url, 3, seed=1, fault=fault) as workers:
        master = Master(redis_url, tmp_path, STUDY, view)
        assert master.run()
    assert table(master.state) == expected
    assert "Redis has lost its data; it is given again what the ledger holds" in view.notes
    assert len(events(tmp_path, "sampled")) == 16


def test_a_kill_that_redis_lost_is_asked_again(redis_url: str, tmp_path: Path) -> None:
    study = study_file(kill={"rule": ["diverged", "sync_halving"]})

    def empty() -> None:
        connect(redis_url).flushall()
        del master.redis_study.stop

    # it pauses at the rung before its kill arrives, and then Redis is emptied
    view = once(lambda state: 0 in state.by_state["paused"], empty)
    with PretendWorkers(redis_url, 2, curve=broken({0}, seeds_of(study))):
        master = Master(redis_url, tmp_path, study, view)
        master.redis_study.stop = lambda *_: None  # type: ignore[method-assign]
        assert master.run()
    assert master.state.trials[0].reason.startswith("diverged rule")


@pytest.mark.parametrize("kind", ["stop", "what", "report"])
def test_what_others_write_to_the_stream_is_read_once(
    redis_url: str, tmp_path: Path, kind: str
) -> None:
    connection = connect(redis_url)
    seen: list[str] = []
    written: list[Any] = []
    looks: list[StudyState] = []

    def write() -> None:
        fields: Any = {"e": kind, "t": "0", "w": "another", "n": "0"}
        written.append(connection.xadd(Keys(NAME).events, fields))
        master.view.look = looks.append

    def seeing(*args: Any, **kwargs: Any) -> list[Any]:
        events = own(*args, **kwargs)
        seen.extend(event.id for event in events)
        return events

    # nothing else comes while both workers are silent
    view = once(lambda state: len(state.by_state["running"]) == 2, write)
    master = Master(redis_url, tmp_path, STUDY, view)
    own, master.redis_study.stream.read = master.redis_study.stream.read, seeing  # type: ignore
    with PretendWorkers(redis_url, 2, fault=lambda *_: "" if len(looks) > 3 else "silent"):
        assert master.run()
    assert seen.count(written[0]) == 1


@pytest.mark.parametrize("error", [OutOfMemoryError, ReadOnlyError, TimeoutError])
def test_a_redis_that_takes_no_orders_for_a_while_is_waited_for(
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
    error: type[RedisError],
) -> None:
    expected = undisturbed()
    left = [error("not now")] * 2

    def put(*args: Any) -> None:
        if left:
            raise left.pop()
        own(*args)

    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY)
        own, master.redis_study.queue.put = master.redis_study.queue.put, put  # type: ignore
        assert master.run()
    assert table(master.state) == expected
    assert "Redis does not answer (not now); waiting for it" in master.view.notes


def test_the_stream_keeps_what_the_disk_has_not_got(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[Any] = []

    def look(state: StudyState) -> None:
        trims.append(connect(redis_url).hget(Keys(NAME).info, "trimmed") or "")
        assert position(trims[-1]) <= position(master.ledger.synced_cursor)

    monkeypatch.setattr("scattershot_master.state.ledger._SYNC_EVERY", 1e9)
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.0)
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY, Watcher(look))
        assert master.run()
    assert "" < trims[-1] < master.state.cursor


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_ledger_from_a_backup_is_gone_on_with_though_redis_knows_more(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]], share: float
) -> None:
    expected = undisturbed()
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY)
        assert master.run()
        master.redis_study.trim(master.state.cursor)
        connect(redis_url).xtrim(Keys(NAME).events, maxlen=0, approximate=False)
        whole = master.ledger.path.read_bytes().splitlines(keepends=True)
        master.ledger.path.write_bytes(b"".join(whole[: int(share * len(whole))]))
        again = Master(redis_url, tmp_path, STUDY)
        assert again.run()
    assert table(again.state) == expected
    assert "the ledger ends before what Redis knows: Redis forgets it" in again.view.notes


# ---- more than one master


def test_a_second_master_on_the_same_redis_is_refused(redis_url: str, tmp_path: Path) -> None:
    first = Master(redis_url, tmp_path / "here", STUDY)
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # past the ledger's own lock
    with pytest.raises(ScattershotError, match="another master runs the study 'pretended'"):
        Master(redis_url, tmp_path / "there", STUDY)
    with PretendWorkers(redis_url, 1):
        assert first.run()


def test_a_master_stops_when_another_takes_over(
    redis_url: str, tmp_path: Path, undisturbed: Callable[..., list[str]]
) -> None:
    expected = undisturbed()
    others = []

    def fault(trial: int, attempt: int, epoch: int) -> str:
        return "wait" if len(workers.trained) >= 15 and not stopped.is_set() else ""

    def take_over() -> None:
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        others.append(Master(redis_url, tmp_path / "there", STUDY, take_over=True))

    stopped = threading.Event()

    view = once(lambda state: reported(state) >= 15, take_over)
    with PretendWorkers(redis_url, 2, fault=fault) as workers:
        first = Master(redis_url, tmp_path / "here", STUDY, view)
        with pytest.raises(ScattershotError, match="another master has taken over this study"):
            first.run()
        stopped.set()
        (second,) = others
        assert connect(redis_url).get(Keys(NAME).master) == second.redis_study.token
        assert second.run()
    assert table(second.state) == expected


@pytest.mark.parametrize("force", [False, True])
def test_another_study_of_the_same_name_is_refused_and_the_first_keeps_its_master(
    redis_url: str, tmp_path: Path, force: bool
) -> None:
    first = Master(redis_url, tmp_path / "here", STUDY)
    token = connect(redis_url).get(Keys(NAME).master)
    with pytest.raises(ScattershotError, match="another"):
        Master(redis_url, tmp_path / "there", STUDY, take_over=force)
    assert connect(redis_url).get(Keys(NAME).master) == token
    first.redis_study.release()
    with pytest.raises(ScattershotError, match="another study named 'pretended' is in this Redis"):
        Master(redis_url, tmp_path / "there", STUDY, take_over=force)
    assert not connect(redis_url).exists(Keys(NAME).master)


# ---- a full disk


def test_a_full_disk_ends_the_search_with_everything_acted_upon_in_the_ledger(
    redis_url: str,
    tmp_path: Path,
    undisturbed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed()
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY)
        acted: set[int] = set()
        send = master.redis_study.send

        def sent(trials: Any, **more: Any) -> None:
            acted.update(trial.number for trial in trials)
            send(trials, **more)

        monkeypatch.setattr(master.redis_study, "send", sent)
        master.ledger._file = FullDisk(master.ledger._file, 3000)  # type: ignore[assignment]
        with pytest.raises(ScattershotError, match="the disk is full"):
            master.run()
        assert acted
        assert acted <= set(read(tmp_path / NAME).trials)
        again = Master(redis_url, tmp_path, STUDY)
        assert again.run()
    assert table(again.state) == expected


class FullDisk:
    """A file on a disk that takes a number of bytes more, and the first part of a write beyond."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> None:
        self._file.write(data[: self._room])
        self._file.flush()
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_how_trials_are_trained_stands_in_the_ledger_though_redis_loses_it(
    redis_url: str, tmp_path: Path
) -> None:
    connection = connect(redis_url)

    def settle_and_lose() -> None:
        Signatures(connection, NAME).settle("ab", "fused", "3 times as fast")
        eventually(lambda: Signatures(connection, NAME).mode("ab"))

    lost: list[bool] = []

    def look(state: StudyState) -> None:
        if state.kinds and not lost:
            lost.append(True)
            connection.flushall()

    asked = once(lambda state: len(state.trials) > 2, settle_and_lose)

    def both(state: StudyState) -> None:
        asked.look(state)
        look(state)

    view = Watcher(both)
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY, view)
        assert master.run()
    assert master.state.kinds == {"ab": "fused"}
    assert "trials are trained fused: 3 times as fast" in view.notes
    assert Signatures(connection, NAME).mode("ab") == "fused"
