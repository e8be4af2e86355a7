"""Fills stores in child processes that meet with trouble; argument: the folder for `killed_*`, `full` and `shared`."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from stored import PLAN, make_case

from unetkit.data.store import StoredCase, open_store
from unetkit.errors import DataError
from unetkit.plan.plan import Plan
from unetkit.types import Case


def fill(folder: Path, cases: list[Case], plan: Plan = PLAN, *, truth: bool = False) -> list[StoredCase]:
    """Put cases into the store of a folder, made if need be."""
    store = open_store(folder)
    return [store.add(case, plan, store.names(case, plan, truth=truth)) for case in cases]


def two_cases(root: Path) -> list[Case]:
    """The cases of every child."""
    root.mkdir(exist_ok=True)
    return [make_case(root, name) for name in ("first", "second")]


def large_case(root: Path) -> Case:
    """A case whose image does not fit where `full` writes."""
    root.mkdir(exist_ok=True)
    return make_case(root, "large", (40, 40, 20))


def killed(root: Path, moment: str) -> None:
    """Die by SIGKILL with three of four parts in place: the fourth is `written`, or not yet `begun`."""
    move, calls = Path.replace, 0

    def dying(self: Path, target: Path) -> None:
        nonlocal calls
        calls += str(target).endswith(".npy")
        if calls == 4 and moment == "written":
            os.kill(os.getpid(), signal.SIGKILL)
        move(self, target)
        if calls == 3 and moment == "begun":
            os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = dying
    fill(root / "store", two_cases(root))


def full(root: Path) -> None:
    """Write where no file may grow beyond 60 kB, which ends as a full disk does; leave the message."""
    case = large_case(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        fill(root / "store", [case])
    except DataError as error:
        (root / "message").write_text(str(error))


def child(work: Callable[..., object], root: Path, *arguments: object) -> int:
    """Start a function in a process of its own and return its id."""
    root.mkdir(parents=True, exist_ok=True)
    number = os.fork()
    if number == 0:
        work(root, *arguments)
        os._exit(0)
    return number


if __name__ == "__main__":
    torch.set_num_threads(1)  # thread pools do not survive a fork
    home = Path(sys.argv[1])
    four = two_cases(home) + [make_case(home, name) for name in ("third", "fourth")]
    started = {
        child(killed, home / "killed_written", "written"): signal.SIGKILL,
        child(killed, home / "killed_begun", "begun"): signal.SIGKILL,
        child(full, home / "full"): 0,
        child(fill, home / "shared", four): 0,
        child(fill, home / "shared", four): 0,
    }
    sys.exit(any(os.waitpid(number, 0)[1] != status for number, status in started.items()))
