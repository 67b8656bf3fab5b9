"""Owns the live view of a search: a picture that changes in place, or lines for a log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live

from scattershot_common.bus.workers import Heartbeat
from scattershot_master import text as words
from scattershot_master.search.observers import Observer
from scattershot_master.show.layout import Cell, TextLine, line, plain_text
from scattershot_master.show.live_frame import Pace, frame, progress_line
from scattershot_master.show.terminal import RichPage
from scattershot_master.state import progress
from scattershot_master.state.study_state import StudyState

#: Seconds between two pictures, and between two lines of a log.
PICTURE_S, LINE_S = 0.25, 5.0
#: A picture takes this share of the master's time at most: the more trials, the fewer pictures.
SHARE = 0.02
#: So many routine notes stand below the picture; so many others a second are printed at once.
LATELY, AT_ONCE = 3, 5


class LiveView(Observer):
    """Shows a search while it runs, as an observer of it."""

    in_loop = True

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._begun = clock()
        self._pictures = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._due = self._begun if self._pictures else self._begun + LINE_S
        self._rate = progress.Rate()
        self._line = ""
        self._notes: list[TextLine] = []
        self._noted: deque[float] = deque(maxlen=AT_ONCE)
        self._lately: deque[TextLine] = deque(maxlen=LATELY)

    def tick(
        self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None = None
    ) -> None:
        """Show the state of things, if the last picture or line is old enough.

        `rate` is in trials per second; None before there is evidence.
        """
        now = self._clock()
        if now < self._due or not state.settings.recorded:
            return
        begun = time.perf_counter()
        stages = progress.stages(state)
        speed = self._rate.look(now, sum(stage.trained for stage in stages))
        left = progress.time_left(stages, speed)
        if self._pictures:
            self._flush()
            pace = Pace(now - self._begun, rate, left)
            size = (self._console.width, self._console.height)
            self._show(
                RichPage(frame(state, stages, workers, self._lately, pace, size), wrap=False)
            )
            self._due = now + max(PICTURE_S, (time.perf_counter() - begun) / SHARE)
            return
        self._due = now + LINE_S
        text = progress_line(state, stages, left)
        if text != self._line:
            self._line = text
            self._print([_stamped(text)])

    def note(self, text: str, *, routine: bool = False) -> None:
        """Tell of one thing that happened, on a line that stays above the picture.

        What happens all the time (`routine`: a kill) stays in a log only; on a terminal it stands
        below the picture until others push it out.
        """
        if routine and self._pictures:
            self._lately.append(_stamped(text))
            return
        self._notes.append(_stamped(text))
        now = self._clock()
        if self._pictures and len(self._noted) == AT_ONCE and now - self._noted[0] < 1:
            return  # a flood: they come with the next picture, all at once
        self._noted.append(now)
        self._flush()

    def close(self) -> None:
        """Take the picture away; the notes stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._flush()

    def _show(self, drawing: RichPage) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(drawing, refresh=True)

    def _flush(self) -> None:
        if self._notes:
            self._print(self._notes)
            self._notes = []

    def _print(self, lines: Sequence[TextLine]) -> None:
        if self._pictures:
            self._console.print(RichPage(lines))
        else:
            self._console.out(plain_text(lines), end="", highlight=False)


def _stamped(text: str) -> TextLine:
    style = "yellow" if text.startswith("warning") else ""
    return line(Cell(time.strftime("%H:%M:%S "), "dim"), Cell(words.clean(text), style))
