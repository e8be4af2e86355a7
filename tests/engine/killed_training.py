"""Trains in processes of their own, one for each of MOMENTS, that SIGKILL themselves; argument: their folder."""

import os
import signal
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401 (the first optimiser step imports it, in every child anew)
from tiny_task import PLAN, SquareLoader, build, dice_on_held_out, small_recipe

from unetkit import checkpoint
from unetkit.engine import fit
from unetkit.engine.log import RunLog
from unetkit.engine.step import Stepper

MOMENTS = [
    ("after a step", 3),  # before the first checkpoint
    ("after a step", 13),
    ("inside the write of a checkpoint", 1),
    ("inside the write of a checkpoint", 6),
    ("before a checkpoint takes its place", 4),
    ("after a checkpoint took its place", 2),  # the best one is new, the last one still old
    ("inside a line of the log", 5),
]
RECIPE = small_recipe(ema=0.9, checkpoint_steps=4, optimizer={"name": "adamw", "lr": 0.01})


def job(folder: Path) -> fit.Job:
    """The training that is killed, to be gone on with by the test."""
    folder.mkdir(exist_ok=True)
    return fit.Job(RECIPE, PLAN, folder, SquareLoader(), 7, dice_on_held_out, shown=False)


def die() -> None:
    """End this process as the kernel would for lack of memory: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def at(number: int, before, after=lambda *_: None):
    """Return a twin of a function that calls `before` at its number-th call, and `after` when that is through."""

    def wrap(function):
        calls = 0

        def twin(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                before(*args)
            result = function(*args, **kwargs)
            if calls == number:
                after(*args)
            return result

        return twin

    return wrap


def half_a_file(_, path: Path, **__) -> None:
    """Leave the first bytes of what looks like a checkpoint."""
    path.write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    die()


def half_a_line(log: RunLog, _) -> None:
    """Leave the beginning of a record."""
    with log.path.open("ab") as file:
        file.write(b'{"step": 9')
    die()


def arm(moment: str, number: int) -> None:
    """Make this process die at the number-th time it comes to a moment."""
    nothing = lambda *_: None  # noqa: E731
    if moment == "after a step":
        Stepper.__call__ = at(number, nothing, lambda *_: die())(Stepper.__call__)
    elif moment == "inside the write of a checkpoint":
        checkpoint.save_file = at(number, half_a_file)(checkpoint.save_file)
    elif moment == "before a checkpoint takes its place":
        Path.replace = at(number, lambda *_: die())(Path.replace)
    elif moment == "after a checkpoint took its place":
        Path.replace = at(number, nothing, lambda *_: die())(Path.replace)
    elif moment == "inside a line of the log":
        RunLog.write = at(number, half_a_line)(RunLog.write)


def train_until_killed(folder: Path, moment: str, number: int) -> int:
    """Train in a child process and return the signal that ended it (0: it was not killed)."""
    child = os.fork()  # this process has imported torch, but computed nothing yet
    if child == 0:
        arm(moment, number)
        fit.fit(job(folder), build(RECIPE))
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    ends = [train_until_killed(Path(sys.argv[1]) / f"run{i}", *moment) for i, moment in enumerate(MOMENTS)]
    sys.exit(ends != [signal.SIGKILL] * len(MOMENTS))
