import io
import time

import pytest
from rich.console import Console

from scattershot_common.bus.workers import Heartbeat
from scattershot_master.show import live
from scattershot_master.show.layout import Table, line, plain_text, table_lines
from scattershot_master.show.live import LINE_S, LiveView
from scattershot_master.show.live_frame import Pace, frame
from scattershot_master.state import progress
from scattershot_master.state.study_state import StudyState
from support.synthetic_study import Simulation, event


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def state() -> StudyState:
    simulation = Simulation(workers=3)
    simulation.run(150)
    return simulation.state


def heartbeats(*names: str) -> list[Heartbeat]:
    return [Heartbeat(name, "host", 1, "cuda:0", "0.1.0", 0.0) for name in names]


def log_view(clock: Clock) -> tuple[LiveView, io.StringIO]:
    file = io.StringIO()
    return LiveView(Console(file=file), clock), file


def screen_view(clock: Clock, height: int = 40) -> tuple[LiveView, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, height=height)
    return LiveView(console, clock), file


def since(file: io.StringIO) -> str:
    text = file.getvalue()
    file.truncate(0)
    file.seek(0)
    return text


# ---- a log


def test_a_log_gets_a_note_as_it_comes(clock: Clock) -> None:
    view, file = log_view(clock)
    view.note("stage coarse: 48 trials to 2 epochs")
    view.note("trial 3 killed at epoch 1: too bad", routine=True)
    lines = file.getvalue().splitlines()
    assert lines[0].endswith(" stage coarse: 48 trials to 2 epochs")
    assert lines[1].endswith(" trial 3 killed at epoch 1: too bad")


def test_a_log_has_no_colours_and_is_never_wrapped(clock: Clock) -> None:
    view, file = log_view(clock)
    view.note("warning: " + "long " * 100)
    assert file.getvalue().count("\n") == 1
    assert "\x1b" not in file.getvalue()


def test_a_log_gets_a_line_of_progress_now_and_then(state: StudyState, clock: Clock) -> None:
    view, file = log_view(clock)
    for _ in range(100):
        clock.now += LINE_S / 50
        view.tick(state, [], rate=None)
    (printed,) = file.getvalue().splitlines()
    coarse = progress.stages(state)[0]
    best = progress.leaders(state, 1)[0]
    assert f"coarse {coarse.done}/48 · {len(state.by_state['running'])} running" in printed
    assert f"best val_accuracy {best.best_value:.4f} (trial {best.number})" in printed
    assert "left" not in printed  # nothing has happened while it looked


def test_a_log_does_not_repeat_itself(state: StudyState, clock: Clock) -> None:
    view, file = log_view(clock)
    for _ in range(10):
        clock.now += LINE_S
        view.tick(state, [])
    assert file.getvalue().count("\n") == 1


def test_a_log_tells_how_much_time_is_left_once_there_is_evidence(clock: Clock) -> None:
    simulation = Simulation()
    view, file = log_view(clock)
    for count, _ in enumerate(simulation.events()):
        clock.now += 0.5
        view.tick(simulation.state, [])
        if count == 120:
            break
    first, *later = file.getvalue().splitlines()
    assert "left" not in first
    assert later[-1].split(" · ")[-1].startswith("about ")


# ---- a terminal


def test_a_terminal_gets_a_frame_with_all_parts(state: StudyState, clock: Clock) -> None:
    view, file = screen_view(clock)
    view.note("trial 3 killed at epoch 1: too bad", routine=True)
    view.tick(state, heartbeats("host-0-4000", "host-9-1"), rate=2.5)
    shown = since(file)
    view.close()
    assert "2.5 trials/s" in shown
    assert "━" in shown and "to come, 8 epochs" in shown
    best = progress.leaders(state, 1)[0]
    assert f"{best.params['lr']:.1e}" in shown
    assert "cuda" in shown and "idle" in shown
    assert "trial 3 killed at epoch 1: too bad" in shown


def test_a_frame_is_not_drawn_more_often_than_four_times_a_second(
    state: StudyState, clock: Clock
) -> None:
    view, file = screen_view(clock)
    view.tick(state, [])
    since(file)
    for _ in range(10):
        clock.now += 0.02
        view.tick(state, [])
    assert since(file) == ""
    clock.now += 1e6
    view.tick(state, [])
    assert since(file) != ""
    view.close()


def test_frames_that_cost_much_come_less_often(
    state: StudyState, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, file = screen_view(clock)
    seconds = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    view.tick(state, [])  # takes a second
    since(file)
    clock.now = 0.9 / live.SHARE
    view.tick(state, [])
    assert since(file) == ""
    clock.now = 1.1 / live.SHARE
    view.tick(state, [])
    assert since(file) != ""
    view.close()


def test_a_note_cannot_steer_the_terminal(clock: Clock) -> None:
    view, file = log_view(clock)
    view.note("trial 3 failed: \x1b[2Jboom\nand more")
    assert file.getvalue().endswith(" trial 3 failed:  [2Jboom and more\n")


def test_a_note_stays_when_the_frame_goes(state: StudyState, clock: Clock) -> None:
    view, file = screen_view(clock)
    view.tick(state, [])
    since(file)
    view.note("worker host-3 has gone")
    assert "worker host-3 has gone" in since(file)
    view.close()
    assert "worker host-3 has gone" not in since(file)


def test_a_flood_of_notes_comes_in_one_piece_and_whole(state: StudyState, clock: Clock) -> None:
    view, file = screen_view(clock)
    view.tick(state, [])
    since(file)
    for number in range(200):
        view.note(f"note {number:03d}")
    assert since(file).count("note ") < 10
    clock.now += 1e6
    view.tick(state, [])
    assert "note 199" in since(file)
    view.note("note 200")
    view.close()
    assert "note 200" in since(file)


def test_the_last_notes_are_not_lost_at_the_end(clock: Clock) -> None:
    view, file = screen_view(clock)
    for number in range(50):
        view.note(f"note {number:03d}")
    view.close()
    assert "note 049" in file.getvalue()


@pytest.mark.parametrize("height", [18, 24, 30, 50])
@pytest.mark.parametrize("workers", [0, 1, 3, 40])
def test_a_frame_fits_the_terminal(state: StudyState, height: int, workers: int) -> None:
    names = heartbeats(*(f"host-{index}-{4000 + index}" for index in range(workers)))
    recent = [line("killed")] * 3
    page = frame(state, progress.stages(state), names, recent, Pace(1, None, None), (80, height))
    drawn = [table_lines(block, 80) if isinstance(block, Table) else [block] for block in page]
    assert sum(map(len, drawn)) <= height


def test_in_a_low_terminal_trials_are_worth_more_than_kills_and_workers(state: StudyState) -> None:
    stages, recent = progress.stages(state), [line("killed")] * 3
    for height in (17, 22):
        page = frame(state, stages, heartbeats("idle-1"), recent, Pace(1, None, None), (80, height))
        assert plain_text(page).count("/2 ") >= 5
    assert "idle-1" in plain_text(page) and "killed\n" not in plain_text(page)


def test_workers_that_have_no_room_are_counted(state: StudyState) -> None:
    running = [state.trials[number].worker for number in state.by_state["running"]]
    names = heartbeats(*running, *(f"idle-{index}" for index in range(40)))
    page = frame(state, progress.stages(state), names, [], Pace(1, None, None), (80, 24))
    last = plain_text(page).splitlines()[-1]
    shown = plain_text(page).count("idle-")
    assert last == f"{40 - shown} workers more, 0 at work"


def test_a_study_without_workers_says_so() -> None:
    simulation = Simulation()
    simulation.run(20)
    for number in list(simulation.state.by_state["running"]):
        simulation.state.apply(event("waiting", t=number, a=1, y="drain"))
    stages = progress.stages(simulation.state)
    page = frame(simulation.state, stages, [], [], Pace(1, None, None), (80, 24))
    assert "no worker is here" in plain_text(page)
