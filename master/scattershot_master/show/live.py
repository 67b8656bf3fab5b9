"""The live view of a search: a frame redrawn in place on a terminal, or lines in a log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live

from scattershot_common.bus.workers import Heartbeat
from scattershot_master import text
from scattershot_master.search.observer import Observer
from scattershot_master.show.layout import Cell, TextLine, line, plain_text
from scattershot_master.show.live_frame import Pace, frame, progress_line
from scattershot_master.show.terminal import RichPage
from scattershot_master.state import progress
from scattershot_master.state.study_state import StudyState

#: Seconds between two frames, and between two lines of a log.
FRAME_S, LINE_S = 0.25, 5.0
#: The share of the master's time that frames may take: the more trials, the fewer frames.
SHARE = 0.02
#: The number of routine notes below the frame, and of other notes printed at once in a second.
RECENT, BURST = 3, 5


class LiveView(Observer):
    """Shows a search while it runs, as an observer of it."""

    in_loop = True

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._opened = clock()
        self._animated = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._due = self._opened if self._animated else self._opened + LINE_S
        self._rate = progress.Rate()
        self._line = ""
        self._notes: list[TextLine] = []
        self._note_times: deque[float] = deque(maxlen=BURST)
        self._recent: deque[TextLine] = deque(maxlen=RECENT)

    def tick(
        self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None = None
    ) -> None:
        """Show the state of the search, if the last frame or line is old enough.

        `rate` is in trials per second; None before there is evidence.
        """
        now = self._clock()
        if now < self._due or not state.settings.recorded:
            return
        start = time.perf_counter()
        stages = progress.stages(state)
        speed = self._rate.update(now, sum(stage.trained for stage in stages))
        left = progress.time_left(stages, speed)
        if self._animated:
            self._flush()
            pace = Pace(now - self._opened, rate, left)
            size = (self._console.width, self._console.height)
            self._draw(
                RichPage(frame(state, stages, workers, self._recent, pace, size), wrap=False)
            )
            self._due = now + max(FRAME_S, (time.perf_counter() - start) / SHARE)
            return
        self._due = now + LINE_S
        current = progress_line(state, stages, left)
        if current != self._line:
            self._line = current
            self._print([_stamped(current)])

    def note(self, text: str, *, routine: bool = False) -> None:
        """Show an event, on a line that stays above the frame.

        Frequent events (`routine`: a kill) stay in a log only; on a terminal they are shown below
        the frame until newer ones replace them.
        """
        if routine and self._animated:
            self._recent.append(_stamped(text))
            return
        self._notes.append(_stamped(text))
        now = self._clock()
        if self._animated and len(self._note_times) == BURST and now - self._note_times[0] < 1:
            return  # too many: they are printed with the next frame, all at once
        self._note_times.append(now)
        self._flush()

    def close(self) -> None:
        """Remove the frame; the notes stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._flush()

    def _draw(self, page: RichPage) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(page, refresh=True)

    def _flush(self) -> None:
        if self._notes:
            self._print(self._notes)
            self._notes = []

    def _print(self, lines: Sequence[TextLine]) -> None:
        if self._animated:
            self._console.print(RichPage(lines))
        else:
            self._console.out(plain_text(lines), end="", highlight=False)


def _stamped(note: str) -> TextLine:
    style = "yellow" if note.startswith("warning") else ""
    return line(Cell(time.strftime("%H:%M:%S "), "dim"), Cell(text.clean(note), style))
