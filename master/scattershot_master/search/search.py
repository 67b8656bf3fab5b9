"""Owns the master's loop: read what workers did, judge, plan, write it down, act."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, cast

from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import FAILURES
from scattershot_common.bus.signatures import TrainingMode
from scattershot_common.bus.stream import Event
from scattershot_common.bus.workers import Heartbeat
from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.store.checkpoint_names import is_checkpoint_of, trial_key
from scattershot_common.study.settings import StudyFile
from scattershot_common.trial import STATES, State
from scattershot_master.killers.base import Killer
from scattershot_master.killers.build import stage_killers
from scattershot_master.search import planning
from scattershot_master.search.checkpoint_cleanup import CheckpointCleanup
from scattershot_master.search.judging import Judge
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.search.redis_sync import RedisSync
from scattershot_master.search.workforce import Workforce
from scattershot_master.state import events
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord

#: Seconds between looks at leases, workers and the queue.
_HOUSEKEEPING = 1.0
#: A turn of the loop waits this long for more events, so that a flood is taken in gulps.
_GULP = 0.004


class View(Protocol):
    """What shows the search while it runs."""

    def update(
        self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None
    ) -> None:
        """Show the state of things."""

    def note(self, text: str, *, routine: bool = False) -> None:
        """Tell of one thing that happened; `routine` if it happens all the time."""


class Search:
    """Runs one study to its end, or until it is asked to stop.

    Whatever is decided is written to the ledger before it is done, and everything that is done
    may be done again: a master that was killed anywhere goes on from the ledger.
    """

    def __init__(
        self,
        study: StudyFile,
        ledger: Ledger,
        dispatch: RedisStudy,
        view: View,
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the study, its open ledger, its side of the bus, and what shows it.

        `tend` is called every second: it may start again what has died on this machine.
        """
        self._study, self._ledger, self._dispatch, self._view = study, ledger, dispatch, view
        self._tend = tend
        self._state = ledger.state
        self._checkpoints = self._state.checkpoints(ledger.folder)
        self._retaining = CheckpointCleanup(self._state, study, self._checkpoints)
        self._killers: list[Killer] = []
        self._judge: Judge | None = None
        self._roster = Workforce(view.note)
        self._upkeep = RedisSync(
            ledger,
            dispatch,
            take=self._take,
            note=view.note,
            tend=tend,
            stopping=lambda: self.stopping,
        )
        self._due = 0.0
        #: Set (by a signal handler, or by the `stop` command) to end the loop cleanly.
        self.stopping = False
        if stage := planning.current_stage(self._state):
            self._enter(stage)

    def run(self, *, workers_gone: bool = False) -> bool:
        """Run until the last stage is closed (True) or `stopping` was set (False).

        `workers_gone` says that no worker can be alive in this Redis, so that running trials may
        be taken up again at once.

        Raises:
            ScattershotError: the study cannot go on; nothing is lost.
        """
        self._upkeep.begin(workers_gone=workers_gone)
        try:
            while not self.stopping:
                try:
                    if self._turn():
                        return True
                except REDIS_OUTAGE as error:
                    self._upkeep.outwait(error)
            self._upkeep.hold(self._study.worker.kill_grace)
            return False
        finally:
            self._retaining.settle()

    def restore(self) -> None:
        """Give Redis all it must know of the study, and leave it at that."""
        self._upkeep.begin(workers_gone=False)
        self._upkeep.act()

    # ---- a turn of the loop

    def _turn(self) -> bool:
        """Take in events, decide, write down, act; return whether the last stage is closed."""
        read = self._dispatch.stream.read(self._state.cursor, block_ms=100)
        if read:
            time.sleep(_GULP)
            read += self._dispatch.stream.read(read[-1].id, block_ms=None)
        for event in read:
            self._take(event)
        over = self._plan()
        self._ledger.commit()
        self._upkeep.act()
        if time.monotonic() >= self._due:
            self._tend()
            self._roster.meet(self._dispatch.workers())
            self._upkeep.keep(self._study.worker.max_failures)
            self._due = time.monotonic() + _HOUSEKEEPING
        self._view.update(self._state, self._roster.workers, rate=self._roster.rate())
        return over

    def _take(self, event: Event) -> None:
        if event.kind == "stop":
            self._ledger.append(events.StopAsked(event.id))
            self.stopping |= event.worker == self._dispatch.token
            return
        if event.kind == "kind":
            self._ledger.append(
                events.TrainingChosen(
                    event.worker, cast(TrainingMode, event.why), event.reason, event.id
                )
            )
            self._view.note(f"trials are trained {event.why}: {event.reason}")
            return
        if event.trial not in self._state.trials:
            # a power cut took its sampling from the ledger; drawn again, it is the same trial
            self._sample(event.trial + 1 - len(self._state.trials))
        trial = self._state.trials.get(event.trial)
        if trial is None or event.kind not in ("report", "started", *STATES):
            self._ledger.append(events.Skipped(event.id))  # none of ours: someone else writes here
            return
        if event.kind == "report" and (event.epoch <= trial.done or not trial.living):
            self._ledger.append(events.Skipped(event.id))  # Redis had lost its data: trained again
            return
        if event.kind == "report":
            file = event.checkpoint
            if file and not is_checkpoint_of(trial.number, file):
                self._view.note(f"trial {trial.number}: refused {file[:80]!r} as a checkpoint")
                file = ""
            self._ledger.append(
                events.EpochReported(
                    event.trial, event.attempt, event.epoch, event.metrics, file, event.id
                )
            )
            self._judge_report(trial)
            return
        if event.kind == "started":
            self._ledger.append(
                events.TrialStarted(event.trial, event.attempt, event.worker, event.id)
            )
            return
        before = trial.living
        self._ledger.append(
            events.TrialChanged(
                cast(State, event.kind),
                event.trial,
                event.attempt,
                event.reason,
                event.why,
                event.id,
            )
        )
        if event.kind == "waiting" and not event.why:
            self._upkeep.outbox.append(trial)
        if event.why in FAILURES:
            self._view.note(f"trial {trial.number} attempt {event.attempt}: {event.reason}")
        if before and not trial.living:
            self._ended(trial)

    def _judge_report(self, trial: TrialRecord) -> None:
        if self._judge is None or trial.kill_asked:
            return
        if reason := self._judge.verdict(trial):
            self._ledger.append(events.KillAsked(trial.number, reason))
            self._upkeep.kills.append(trial)

    def _ended(self, trial: TrialRecord) -> None:
        self._roster.trial_ended()
        self._retaining.ended(trial)
        if trial.state == "killed":
            text = f"trial {trial.number} killed at epoch {trial.done}: {trial.reason}"
            self._view.note(text, routine=True)
        if trial.state == "failed":
            self._view.note(f"trial {trial.number} failed: {trial.reason}")
            self._give_up_if_all_fail()

    def _give_up_if_all_fail(self) -> None:
        """Stop a study whose every trial fails the same way: more of them would teach nothing."""
        failed = self._state.by_state["failed"]
        enough = max(3, len(self._roster.workers) + 1)
        if any(trial.history for trial in self._state.trials.values()):
            return
        if len(failed) < min(enough, sum(stage.trials or 1 for stage in self._study.stages)):
            return
        trials = [self._state.trials[number] for number in sorted(failed)]
        if len({re.sub(r"[-+.\d]+", "#", trial.reason) for trial in trials}) > 1:
            return
        self._ledger.commit()
        key = trial_key(trials[0].number, "error.txt")
        hint = ""
        with suppress(CheckpointError):
            if self._checkpoints.exists(key):
                hint = f" (traceback: {self._checkpoints.path_of(key)})"
        raise ScattershotError(
            f"the first {len(trials)} trials all failed: {trials[0].reason}{hint}; "
            "mend it and run with --fresh"
        )

    # ---- deciding

    def _plan(self) -> bool:
        """Open, fill, settle and close stages; return whether the last one is closed."""
        state = self._state
        while True:
            stage = planning.current_stage(state)
            if stage is None:
                if not self._open_next():
                    return True
                continue
            if planning.stage_done(state, stage):
                self._close(stage)
                continue
            if rung := planning.due_rung(state, self._killers):
                self._ledger.append(rung)
                self._upkeep.outbox += [state.trials[number] for number in rung.go]
                for number, _ in rung.kill:
                    self._upkeep.kills.append(state.trials[number])
                    self._ended(state.trials[number])
                continue
            self._sample(self._roster.lookahead() - len(state.by_state["waiting"]))
            return False

    def _sample(self, count: int) -> None:
        """Draw up to `count` further trials of the open stage."""
        if planning.current_stage(self._state) is None:
            return
        for point in planning.next_points(self._state, self._killers, count):
            self._ledger.append(point)
            self._upkeep.outbox.append(self._state.trials[point.trial])

    def _open_next(self) -> bool:
        index = len(self._state.stages)
        if index >= len(self._study.stages):
            return False
        killers = stage_killers(self._state.settings, index)
        opening = planning.next_stage(self._state, killers)
        assert opening is not None
        self._ledger.append(opening)
        stage = self._state.stages[-1]
        self._enter(stage)
        for number in stage.trials:
            self._retaining.active(self._state.trials[number])
            self._upkeep.outbox.append(self._state.trials[number])
        self._retaining.stage_opened()
        epochs = self._study.stages[index].epochs
        self._view.note(f"stage {stage.name}: {stage.target} trials to {epochs} epochs")
        for note in stage.notes:
            self._view.note(f"  {note}")
        return True

    def _enter(self, stage: StageRecord) -> None:
        self._killers = stage_killers(self._state.settings, stage.index)
        self._judge = Judge(self._state, stage, self._killers) if self._killers else None

    def _close(self, stage: StageRecord) -> None:
        self._ledger.append(events.StageClosed(stage.index))
        self._judge = None
        for warning in border_warnings(self._state):
            if warning.stage == stage.name:
                self._view.note(f"warning: {warning}")
