"""The decisions of a search: what follows from what workers did, and what a stage needs next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from scattershot_common.bus.lane_signatures import TrainingMode
from scattershot_common.bus.outcome import FAILURES
from scattershot_common.bus.stream import Event
from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.store.checkpoint_names import is_checkpoint_of, trial_key
from scattershot_common.trial import STATES, State
from scattershot_master.killers.killer import Curve, Killer, Peers
from scattershot_master.killers.make_killers import judge_all, stage_killers
from scattershot_master.search import planning
from scattershot_master.search.checkpoint_cleanup import CheckpointCleanup
from scattershot_master.search.observer import Observers
from scattershot_master.search.workforce import Workforce
from scattershot_master.state import events
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord


class Controller:
    """Decides what follows from each event, and appends it to the ledger.

    Nothing is carried out here: what is to be sent to Redis and whom to kill is left in `to_send`
    and `to_kill`, for when the ledger is written.
    """

    def __init__(self, ledger: Ledger, workforce: Workforce, observers: Observers) -> None:
        """Take an open ledger, the workers, and who follows the search."""
        self._ledger, self._state = ledger, ledger.state
        self._workforce, self._observers = workforce, observers
        self._checkpoints = self._state.checkpoints(ledger.folder)
        self._cleanup = CheckpointCleanup(self._state, self._checkpoints)
        self._killers: list[Killer] = []
        self._judge: Judge | None = None
        #: Trials to be made known or sent, and trials to be killed.
        self.to_send: list[TrialRecord] = []
        self.to_kill: list[TrialRecord] = []
        if stage := planning.current_stage(self._state):
            self._enter(stage)

    def close(self) -> None:
        """Wait until the checkpoints of trials that are over are removed."""
        self._cleanup.settle()

    # ---- what workers did

    def apply(self, event: Event) -> None:
        """Append an event of the stream to the ledger, with what follows from it."""
        if event.kind == "kind":
            mode = cast(TrainingMode, event.why)
            self._ledger.append(events.TrainingChosen(event.worker, mode, event.reason, event.id))
            self._observers.note(f"trials are trained {event.why}: {event.reason}")
            return
        if event.trial not in self._state.trials:
            # a power cut took its sampling from the ledger; drawn again, it is the same trial
            self._sample(event.trial + 1 - len(self._state.trials))
        trial = self._state.trials.get(event.trial)
        if trial is None or event.kind not in ("report", "started", *STATES):
            self._ledger.append(events.Skipped(event.id))  # not this study's: another program's
        elif event.kind == "report":
            self._apply_report(event, trial)
        elif event.kind == "started":
            started = events.TrialStarted(trial.number, event.attempt, event.worker, event.id)
            self._ledger.append(started)
            self._observers.trial_started(trial)
        else:
            self._apply_change(event, trial)

    def _apply_report(self, event: Event, trial: TrialRecord) -> None:
        if event.epoch <= trial.done or not trial.living:
            self._ledger.append(events.Skipped(event.id))  # trained again: Redis had lost its data
            return
        checkpoint = event.checkpoint
        if checkpoint and not is_checkpoint_of(trial.number, checkpoint):
            self._observers.note(
                f"trial {trial.number}: refused {checkpoint[:80]!r} as a checkpoint"
            )
            checkpoint = ""
        self._ledger.append(
            events.EpochReported(
                trial.number, event.attempt, event.epoch, event.metrics, checkpoint, event.id
            )
        )
        self._observers.epoch_reported(trial, trial.history[-1])
        if self._judge is None or trial.kill_asked:
            return
        if reason := self._judge.verdict(trial):
            self._ledger.append(events.KillAsked(trial.number, reason))
            self.to_kill.append(trial)

    def _apply_change(self, event: Event, trial: TrialRecord) -> None:
        was_living = trial.living
        self._ledger.append(
            events.TrialChanged(
                cast(State, event.kind),
                trial.number,
                event.attempt,
                event.reason,
                event.why,
                event.id,
            )
        )
        if event.kind == "waiting" and not event.why:
            self.to_send.append(trial)
        if event.why in FAILURES:
            self._observers.note(f"trial {trial.number} attempt {event.attempt}: {event.reason}")
        if was_living and not trial.living:
            self._ended(trial)

    def _ended(self, trial: TrialRecord) -> None:
        self._workforce.trial_ended()
        self._cleanup.ended(trial)
        self._observers.trial_ended(trial)
        if trial.state == "killed":
            text = f"trial {trial.number} killed at epoch {trial.done}: {trial.reason}"
            self._observers.note(text, routine=True)
        if trial.state == "failed":
            self._observers.note(f"trial {trial.number} failed: {trial.reason}")
            self._give_up_if_all_fail()

    def _give_up_if_all_fail(self) -> None:
        """Stop a study whose every trial fails the same way: more of them would teach nothing.

        Raises:
            ScattershotError: it does; says how.
        """
        state, stages = self._state, self._state.settings.stages
        failed = state.by_state["failed"]
        enough = max(3, len(self._workforce.workers) + 1)
        if any(trial.history for trial in state.trials.values()):
            return
        if len(failed) < min(enough, sum(stage.trials or 1 for stage in stages)):
            return
        trials = [state.trials[number] for number in sorted(failed)]
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

    # ---- what follows

    def plan(self) -> bool:
        """Open, fill, settle and close stages; return whether the last one is closed."""
        state = self._state
        while True:
            stage = planning.current_stage(state)
            if stage is None:
                if not self._open_next():
                    return True
            elif planning.stage_done(state, stage):
                self._close(stage)
            elif rung := planning.due_rung(state, self._killers):
                self._settle(rung)
            else:
                self._sample(self._workforce.lookahead() - len(state.by_state["waiting"]))
                return False

    def _sample(self, count: int) -> None:
        """Draw up to `count` further trials of the open stage."""
        if planning.current_stage(self._state) is None:
            return
        for point in planning.next_points(self._state, self._killers, count):
            self._ledger.append(point)
            self.to_send.append(self._state.trials[point.trial])

    def _settle(self, rung: events.RungSettled) -> None:
        trials = self._state.trials
        self._ledger.append(rung)
        self.to_send += [trials[number] for number in rung.go]
        for number, _ in rung.kill:
            self.to_kill.append(trials[number])
            self._ended(trials[number])

    def _open_next(self) -> bool:
        state, index = self._state, len(self._state.stages)
        if index >= len(state.settings.stages):
            return False
        opening = planning.next_stage(state, stage_killers(state.settings, index))
        assert opening is not None
        self._ledger.append(opening)
        stage = state.stages[-1]
        self._enter(stage)
        for number in stage.trials:
            self._cleanup.active(state.trials[number])
            self.to_send.append(state.trials[number])
        self._cleanup.stage_opened()
        self._observers.stage_opened(stage)
        epochs = state.settings.stages[index].epochs
        self._observers.note(f"stage {stage.name}: {stage.target} trials to {epochs} epochs")
        for note in stage.notes:
            self._observers.note(f"  {note}")
        return True

    def _enter(self, stage: StageRecord) -> None:
        self._killers = stage_killers(self._state.settings, stage.index)
        self._judge = Judge(self._state, stage, self._killers) if self._killers else None

    def _close(self, stage: StageRecord) -> None:
        self._ledger.append(events.StageClosed(stage.index))
        self._judge = None
        self._observers.stage_closed(stage)
        for warning in border_warnings(self._state):
            if warning.stage == stage.name:
                self._observers.note(f"warning: {warning}")


class Judge:
    """Compares each report of one stage with those of its other trials; made when a stage opens."""

    def __init__(self, state: StudyState, stage: StageRecord, killers: Sequence[Killer]) -> None:
        self._state, self._killers = state, killers
        self._peers = Peers()
        for number in stage.trials:
            trial = state.trials[number]
            for epoch in trial.history:
                self._add(trial, epoch)

    def verdict(self, trial: TrialRecord) -> str:
        """Return why the trial is to be killed after its latest report; "" to let it live."""
        if not self._killers:
            return ""
        self._add(trial, trial.history[-1])
        objective = self._state.objective
        curve = Curve(
            trial.number,
            [objective.score(objective.of(epoch)) for epoch in trial.history],
            [epoch.get("train_loss", epoch.get("val_loss")) for epoch in trial.history],
            trial.epochs,
        )
        verdict = judge_all(self._killers, curve, self._peers)
        return verdict.reason if verdict.action == "kill" else ""

    def _add(self, trial: TrialRecord, epoch: dict[str, float]) -> None:
        objective = self._state.objective
        self._peers.add(trial.number, int(epoch["epoch"]), objective.score(objective.of(epoch)))
