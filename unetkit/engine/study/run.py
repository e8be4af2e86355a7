"""The runs of a study, one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from unetkit.engine.study.at_once import run_at_once
from unetkit.engine.study.decide import Study
from unetkit.engine.study.schedule import Schedule
from unetkit.engine.study.slots import slots
from unetkit.errors import UnetkitError

Run = Callable[[Path], object]
"""Trains the run of a folder to its end, going on where it was."""


def carry_out(study: Study, run: Run, shown: bool) -> None:
    """Train what is not finished yet; a run that fails is noted, and those that do not need it go on.

    Raises KeyboardInterrupt on Ctrl-C, after the last checkpoints were saved, and RecipeError for a device that this
    machine lacks.
    """
    settings, folder = study.recipe.train, study.folder
    pending = [node for node in folder.nodes if not folder.finished(node)]
    places = slots(settings, len(pending))
    schedule = Schedule(folder, pending, shown)
    try:
        if len(places) > 1:
            run_at_once(schedule, places, [f"train.workers={settings.workers}"], settings.epochs)
        else:
            _in_turn(schedule, run)
    except KeyboardInterrupt:
        schedule.say(f"go on with: unetkit train resume={folder.path}")
        raise


def _in_turn(schedule: Schedule, run: Run) -> None:
    while (node := schedule.next()) is not None:
        schedule.start(node)
        try:
            run(schedule.folder.of(node))
        except UnetkitError as error:
            schedule.fail(node, str(error))
        except BaseException:  # Ctrl-C, or a bug: the run can be gone on with
            schedule.pause(node)
            raise
        else:
            schedule.finish(node)
        # the network and the cases of a run must not be in memory beside those of the next
        gc.collect()
