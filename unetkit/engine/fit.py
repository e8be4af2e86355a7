"""The training loop: one for every network, data set and device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from unetkit.engine.device import library_switches
from unetkit.engine.expectation import MEASURED_AT, Comparison, in_words
from unetkit.engine.faults import Load, explained
from unetkit.engine.horizon import Horizon
from unetkit.engine.interrupt import uninterrupted
from unetkit.engine.log import Display, NoLog, RunLog
from unetkit.engine.optim import learning_rate
from unetkit.engine.pulse import Decision, Pulse
from unetkit.engine.state import BEST, LAST, Progress, Saver
from unetkit.engine.step import Batch, Stepper
from unetkit.engine.watch import LossWatch
from unetkit.errors import CheckpointError, RecipeError, counted
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

READ_EVERY = 20
"""Steps between two looks at the losses, each of which waits for the device."""


class Loader(Protocol):
    """Where batches come from: the same step gives the same batch, whenever and wherever one starts."""

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from the given one on, without end."""


@dataclass(frozen=True)
class Score:
    """Outcome of a validation: mean foreground Dice, and per class; NaN where no case says anything."""

    mean: float
    per_class: dict[str, float]


@dataclass(frozen=True)
class Job:
    """What the loop works on: recipe, plan, run folder, loader, steps of an epoch, and how to validate a network.

    `validate` is None where the loss alone is followed. `expected` is what was foreseen of memory and time, as in
    `Plan.expected`.
    """

    recipe: Recipe
    plan: Plan
    folder: Path
    loader: Loader
    steps_per_epoch: int
    validate: Callable[[nn.Module], Score] | None
    shown: bool = True
    expected: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int | None:
        """Steps of the whole training; None for one that lasts `train.max_minutes`, whatever its steps."""
        epochs = self.recipe.train.epochs
        return None if epochs is None else epochs * self.steps_per_epoch


def fit(job: Job, stepper: Stepper) -> Progress:
    """Train to the end of the recipe, its minutes or its patience, going on from the folder's last checkpoint.

    On Ctrl-C the last checkpoint is saved, then KeyboardInterrupt raised. Raises RecipeError for a loss that is not
    finite or a full memory, CheckpointError if a checkpoint cannot be written.
    """
    with explained("preparing the network", _load(job, stepper)), stepper.group.together():
        progress = Saver(job.folder, job.recipe, job.plan).restore(stepper)
    if len(set(stepper.group.gather(progress.step))) > 1:
        raise CheckpointError(f"{job.folder}: not the same on all machines; output= has to be a folder that they share")
    with library_switches(stepper.device, job.recipe.train.deterministic, progress.threads):
        return _Loop(job, stepper, progress).run()


def _load(job: Job, stepper: Stepper) -> Load:
    return Load(job.plan, job.recipe.train.accumulate, stepper.precision.format)


class _Loop:
    def __init__(self, job: Job, stepper: Stepper, progress: Progress) -> None:
        self.job, self.stepper, self.progress = job, stepper, progress
        self.settings = job.recipe.train
        self.saver = Saver(job.folder, job.recipe, job.plan)
        self.group, board = stepper.group, self.settings.tensorboard
        self.log = RunLog(job.folder, progress.log_bytes, progress.step, board) if self.group.leads else NoLog()
        self.horizon = Horizon(self.settings, job.steps)
        shown, limit = job.shown and self.group.leads, 60 * (self.settings.max_minutes or 0)
        self.display = Display(job.steps, progress.step, shown, limit)
        self.watch, self.pulse = LossWatch(self.group), Pulse(self.group)
        # seconds of earlier processes count: max_minutes is of the run, not of the process
        self.started = time.monotonic() - progress.seconds
        self.saved = self.looked = time.monotonic()
        self.waited = self.all_waited = 0.0
        self.first = progress.step + 1
        self.comparison = Comparison(job.expected, stepper.device, stepper.network, progress.step)
        self.over = 0.0
        self._agree()

    def run(self) -> Progress:
        told = in_words(self.job.expected, self.job.steps_per_epoch, self.settings.epochs)
        if told and self.progress.step < MEASURED_AT:
            self.display.say(f"expected: {told}")
        try:
            self._close_epoch()  # one whose last step was saved, but not its validation
            with self.pulse.listening():
                self._steps()
            self._close_epoch(force=True)
            self._save()
        except KeyboardInterrupt:
            # a loss that is not finite must not hide that the user wants to stop, nor be saved
            with suppress(RecipeError, CheckpointError):
                if self.pulse.agreed:
                    self._save()
                    where = f"unetkit train resume={self.job.folder}"
                    self.display.say(f"stopped after step {self.progress.step}; go on with: {where}")
            raise
        finally:
            self.log.close()
            self.display.close()
        return self.progress

    def _steps(self) -> None:
        # the loader counts batches, a step takes several
        source = self.job.loader.batches(self.progress.step * self.settings.accumulate)
        try:
            while self._unfinished() and not self.stopped:
                self._step(source)
                self._after_step()
        finally:
            if isinstance(source, Generator):
                source.close()  # ends the loader's processes now, not when somebody collects garbage

    def _unfinished(self) -> bool:
        return self.job.steps is None or self.progress.step < self.job.steps

    def _step(self, source: Iterator[Batch]) -> None:
        step = self.progress.step
        batches = self._next(source)
        cases = [case for batch in batches for case in batch.case_ids]
        rate = self._rate(step)
        moment = f"step {step} (cases {', '.join(dict.fromkeys(cases))})"
        # weights, loss and step number change together or not at all, as Ctrl-C saves what it finds
        with uninterrupted(), explained(moment, _load(self.job, self.stepper)):
            self.stepper.loss.progress.fill_(self._share(step))
            values = self.stepper(batches, step, self.job.recipe.seed, rate)
            self.watch.add(values, step, rate, cases)
            self.progress.step += 1

    def _next(self, source: Iterator[Batch]) -> list[Batch]:
        start = time.monotonic()
        batches = [next(source) for _ in range(self.settings.accumulate)]
        waited = time.monotonic() - start
        self.waited, self.all_waited = self.waited + waited, self.all_waited + waited
        return batches

    def _rate(self, step: int) -> float:
        base = self.settings.optimizer.lr
        return learning_rate(self.settings.schedule, base, step, self.job.steps, self.job.steps_per_epoch, self.over)

    def _share(self, step: int) -> float:
        """Return which part of the training is over, as all processes have it."""
        return self.over if self.job.steps is None else self.horizon.share(step, 0.0)

    def _agree(self) -> None:
        """Go by the clock of the first process."""
        wanted = self.group.first(self._wanted)
        self.stopped, self.over = wanted.stopped, wanted.over or 0.0

    def _wanted(self) -> Decision:
        """Return what this process, by its clock, would do now."""
        seconds = time.monotonic() - self.started
        due = time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes
        return Decision(self._why_to_stop(), due, self.horizon.share(self.progress.step, seconds))

    def _why_to_stop(self) -> str:
        """Return why training ends before its last epoch, or nothing."""
        limit, patience = self.settings.max_minutes, self.settings.patience
        if limit is not None and time.monotonic() - self.started > 60 * limit:
            return f"train.max_minutes={limit:g} are over"
        if patience is not None and self.progress.stale >= patience:
            best, since = self.progress.best, self.progress.best_step
            scored = "no validation had a score" if best is None else f"none better than {best:.4f} of step {since}"
            return f"train.patience={patience} validations, {scored}"
        return ""

    def _after_step(self) -> None:
        self.display.step(time.monotonic() - self.started)
        step = self.progress.step
        # asked once a step: an epoch that closes now must know whether it is the last one, to validate
        decision = self.pulse.decide(self._wanted(), step % self.job.steps_per_epoch == 0)
        self.stopped, self.over = decision.stopped, self.over if decision.over is None else decision.over
        if step == self.first and self.stepper.fallback:
            self.display.say(f"train.compile: not compiled, going on without ({self.stepper.fallback})")
        self._compare(step)
        if step % READ_EVERY == 0:
            self._look()
        before, every = self.saved, self.settings.checkpoint_steps
        self._close_epoch()
        if (decision.save and self.saved == before) or (every is not None and step % every == 0):
            self._save()

    def _compare(self, step: int) -> None:
        """After the first steps say what the training really takes."""
        found = self.comparison.after(step, self.all_waited)
        if found is None:
            return
        self.log.write({"step": step, "epoch": (step - 1) // self.job.steps_per_epoch + 1, **found})
        told = in_words(found["measured"], self.job.steps_per_epoch, self.settings.epochs)
        self.display.say(f"after {counted(step, 'step')}: {told}")

    def _look(self) -> None:
        """Read the losses, which waits for the device, and log their mean."""
        losses = self.watch.read()
        if not losses:
            return
        now = time.monotonic()
        spent, mean = max(now - self.looked, 1e-9), sum(losses) / len(losses)
        step = self.progress.step
        # a sum and a count, not a list: they go into every checkpoint
        self.progress.losses = [self.progress.losses[0] + sum(losses), self.progress.losses[1] + len(losses)]
        self.log.write(
            {
                "step": step,
                "epoch": (step - 1) // self.job.steps_per_epoch + 1,
                "loss": mean,
                "lr": self._rate(step - 1),
                "steps_per_second": len(losses) / spent,
                "loader_wait": self.waited / spent,
            }
        )
        self.display.numbers(mean, self.waited / spent)
        self.looked, self.waited = now, 0.0

    def _close_epoch(self, force: bool = False) -> None:
        """At the end of an epoch log its mean loss and, where due, validate; `force` closes a cut one too."""
        step, per_epoch = self.progress.step, self.job.steps_per_epoch
        epoch = -(-step // per_epoch)  # rounded up: a cut epoch has a number too
        if epoch <= self.progress.epochs or (step % per_epoch and not force):
            return
        self._look()
        total, count = self.progress.losses
        record: dict[str, Any] = {"step": step, "epoch": epoch, "epoch_loss": total / max(count, 1)}
        final = force or bool(self.stopped) or step == self.job.steps
        due = self.horizon.validates(epoch, self._share(step), self.progress.validated)
        if self.job.validate is not None and (final or due):
            self.progress = replace(self.progress, validated=self._share(step))
            record |= self._validate(self.job.validate)
            self._agree()
        # to end with its minutes is no early end of a training that is as long as they are
        if self.stopped and self._unfinished() and not (self.job.steps is None and self.over >= 1):
            record["stopped"] = self.stopped
        record["seconds"] = self._clock()
        self.log.write(record)
        self.display.say(_line(record, self.settings.epochs))
        self.progress = replace(self.progress, epochs=epoch, losses=[0.0, 0])
        if "val_dice" in record:  # or a kill would repeat the validation, and "best" would outrun "last"
            self._save()
        self.looked = time.monotonic()  # the validation is no part of the steps' rate

    def _validate(self, validate: Callable[[nn.Module], Score]) -> dict[str, Any]:
        if self.group.world > 1:
            self._save()  # Ctrl-C within a validation reaches the processes at different places, where none can save
        self.stepper.settle()
        with explained("validation", _load(self.job, self.stepper)), self.pulse.hearing():
            score = validate(self.stepper.averaged)
        self.stepper.network.train()  # without an average it is the one that was validated
        best = self.progress.best
        if not math.isnan(score.mean) and (best is None or score.mean > best):
            self.progress = replace(self.progress, best=score.mean, best_step=self.progress.step, stale=0)
            self._clock()
            if self.settings.select == "best":  # or prediction would take it
                self.saver.save(BEST, self.stepper, self.progress)
        else:
            self.progress = replace(self.progress, stale=self.progress.stale + 1)
        return {
            "val_dice": _known(score.mean),
            "val_dice_per_class": {k: _known(v) for k, v in score.per_class.items()},
        }

    def _clock(self) -> float:
        self.progress.seconds = time.monotonic() - self.started
        return self.progress.seconds

    def _save(self) -> None:
        """Write the last checkpoint; the losses are read first, so that no diverged weights are kept."""
        self._look()
        self._clock()
        self.progress.log_bytes = self.log.position
        self.saver.save(LAST, self.stepper, self.progress)
        self.saved = time.monotonic()


def _known(value: float) -> float | None:
    """NaN is no JSON."""
    return None if math.isnan(value) else value


def _line(record: dict[str, Any], epochs: int | None) -> str:
    dice = f", dice {record['val_dice']:.4f}" if record.get("val_dice") is not None else ""
    whole = "" if epochs is None else f"/{epochs}"
    line = f"epoch {record['epoch']}{whole}: loss {record['epoch_loss']:.4f}{dice}, {record['seconds']:.0f} s"
    return line + (f"; stopped early: {record['stopped']}" if "stopped" in record else "")
