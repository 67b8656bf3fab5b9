"""Observers of a search: hooks on what happens in it, which never slow it down or end it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar

from scattershot_common.bus.workers import Heartbeat
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord

#: Calls that wait for an observer with a thread of its own; further ones are left out.
_WAITING = 1000
#: Seconds that the end of a search waits for such an observer.
_CLOSE_S = 5.0


class Observer:
    """What may follow a search. Every hook does nothing unless overridden.

    An observer has its own thread, where it may take its time: calls wait in a queue, and those
    that do not fit in it are left out. The records it gets are copies from the moment of the call,
    but for `history`, which may have grown. One that is `in_loop` is called by the search itself
    instead: it must be quick, gets the records themselves, and is the only one that gets `tick`.

    One that raises an exception is dropped, and the user is told.
    """

    in_loop: ClassVar[bool] = False

    def stage_opened(self, stage: StageRecord) -> None:
        """A stage was opened; its continued trials are in it."""

    def stage_closed(self, stage: StageRecord) -> None:
        """Every trial of a stage has ended."""

    def trial_started(self, trial: TrialRecord) -> None:
        """A worker has taken a trial."""

    def epoch_reported(self, trial: TrialRecord, epoch: Mapping[str, float]) -> None:
        """A trial has finished an epoch; `epoch` has its number ("epoch") and its metrics."""

    def trial_ended(self, trial: TrialRecord) -> None:
        """A trial is complete, killed or failed."""

    def note(self, text: str, *, routine: bool = False) -> None:
        """Something happened that the user is told; `routine` if it happens all the time."""

    def tick(self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None) -> None:
        """A turn of the search's loop is over. `rate`: trials ended per second, if known."""

    def study_finished(self, state: StudyState) -> None:
        """The study is over, its ensemble built."""

    def close(self) -> None:
        """No further hook will be called."""


class Observers(Observer):
    """Calls the hooks of several observers."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._channels: list[_Direct | _Queued] = [
            _Direct(observer) if observer.in_loop else _Queued(observer) for observer in observers
        ]

    def stage_opened(self, stage: StageRecord) -> None:
        """See `Observer`."""
        self._call("stage_opened", stage)

    def stage_closed(self, stage: StageRecord) -> None:
        """See `Observer`."""
        self._call("stage_closed", stage)

    def trial_started(self, trial: TrialRecord) -> None:
        """See `Observer`."""
        self._call("trial_started", trial)

    def epoch_reported(self, trial: TrialRecord, epoch: Mapping[str, float]) -> None:
        """See `Observer`."""
        self._call("epoch_reported", trial, epoch)

    def trial_ended(self, trial: TrialRecord) -> None:
        """See `Observer`."""
        self._call("trial_ended", trial)

    def note(self, text: str, *, routine: bool = False) -> None:
        """See `Observer`."""
        self._call("note", text, routine=routine)

    def tick(self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None) -> None:
        """See `Observer`."""
        self._call("tick", state, workers, rate=rate)

    def study_finished(self, state: StudyState) -> None:
        """See `Observer`."""
        self._call("study_finished", state)

    def close(self) -> None:
        """See `Observer`."""
        for channel in self._channels:
            channel.close()

    def _call(self, hook: str, *arguments: Any, **options: Any) -> None:
        for channel in (*self._channels,):
            channel.call(hook, arguments, options)
            if channel.problem:
                self._report(channel)

    def _report(self, channel: _Direct | _Queued) -> None:
        """Tell the user once what is wrong with an observer, and drop it if it failed."""
        name, problem, channel.problem = channel.name, channel.problem, ""
        if channel.failed:
            self._channels.remove(channel)
        self.note(f"{name}: {problem}")


class _Direct:
    """Calls an observer from the loop."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.name = type(observer).__name__
        self.problem = ""
        self.failed = False

    def call(self, hook: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            getattr(self._observer, hook)(*arguments, **options)
        except Exception as error:
            self.failed = True
            self.problem = f"{type(error).__name__}: {error}; it is called no more"

    def close(self) -> None:
        self.call("close", (), {})


class _Queued:
    """Calls an observer from a thread of its own."""

    def __init__(self, observer: Observer) -> None:
        self._direct = _Direct(observer)
        self.name = self._direct.name
        self.problem = ""
        self._told_slow = False
        self._queue: queue.Queue[tuple[str, tuple[Any, ...], dict[str, Any]] | None]
        self._queue = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self._direct.failed

    def call(self, hook: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._direct.failed:
            self.problem = self._direct.problem
        elif hook != "tick":  # the state goes on changing
            try:
                self._queue.put_nowait((hook, tuple(map(_snapshot, arguments)), options))
            except queue.Full:
                if not self._told_slow:
                    self._told_slow = True
                    self.problem = "it is too slow: part of what happens is left out"

    def close(self) -> None:
        """Let it come to the end of its queue, within seconds."""
        try:
            self._queue.put(None, timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)
        except queue.Full:
            pass

    def _run(self) -> None:
        while (call := self._queue.get()) is not None and not self._direct.failed:
            self._direct.call(*call)
        if not self._direct.failed:
            self._direct.close()


def _snapshot(argument: Any) -> Any:
    return copy(argument) if isinstance(argument, TrialRecord | StageRecord) else argument
