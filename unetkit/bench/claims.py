"""Who works on a job: a file that only one process can make, and that is taken over when its maker has gone.

On one machine a maker has gone when its process has; on another one that shares the folder, when it has not renewed the
file for a while. A ticket names one attempt at a job: who begins the attempt makes the claim, and the process that
carries it out, perhaps on another machine, takes the claim over by showing the ticket.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

CLAIM = "claim.json"
_LOCK = ".claim.lock"
_SILENT, _RENEW_EVERY = 600.0, 30.0
"""Seconds without renewal after which a maker on another machine counts as gone, and between two renewals."""
_LOST = 3
"""Exit code of a process whose job was taken over."""


@dataclass(frozen=True)
class Maker:
    """The process that made a claim, and the attempt that it was made for; `born` tells it from a later one."""

    host: str
    pid: int
    ticket: str = ""
    born: str = ""

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


@dataclass(frozen=True)
class Claim:
    """A job's folder that this process works on, or has others work on."""

    path: Path
    ticket: str

    def renew(self) -> bool:
        """Show other machines that the work goes on; False if they have taken the job over."""
        with suppress(OSError):
            os.utime(self.path)
        maker = maker_of(self.path.parent)
        return maker is None or maker.ticket == self.ticket

    def release(self) -> None:
        """Leave the job to others, unless it is in their hands already."""
        maker = maker_of(self.path.parent)
        if maker is not None and maker.ticket == self.ticket:
            self.path.unlink(missing_ok=True)


def claim(place: Path, ticket: str | None = None) -> Claim | None:
    """Claim a job's folder, which is made if need be; None if another process works on it.

    With the `ticket` of an attempt, what was claimed for that attempt is taken over.
    """
    place.mkdir(parents=True, exist_ok=True)
    path, own = place / CLAIM, Claim(place / CLAIM, ticket or uuid4().hex)
    text = json.dumps(asdict(Maker(socket.gethostname(), os.getpid(), own.ticket, _born(os.getpid()))))
    maker = maker_of(place)
    if maker is not None and maker.ticket == ticket:
        # in one step: nobody else may find the folder unclaimed in between
        made = path.with_name(f".{uuid4().hex}.{CLAIM}")
        made.write_text(text, encoding="utf-8")
        made.replace(path)
        return own
    # of those that find it abandoned a second would take away what the first has put in its place
    with _alone(place):
        if path.exists() and not held(place):
            path.unlink(missing_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    return own


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep other processes out of the block; a lock that ends with its process, so that none is left behind."""
    with (place / _LOCK).open("a") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def maker_of(place: Path) -> Maker | None:
    """Return who claimed a job's folder; None if nobody did, or the claim cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        tree = json.loads((place / CLAIM).read_text(encoding="utf-8"))
        return Maker(str(tree["host"]), int(tree["pid"]), str(tree.get("ticket", "")), str(tree.get("born", "")))
    return None


def held(place: Path) -> bool:
    """Tell whether a process works on a job's folder."""
    try:
        silent = time.time() - (place / CLAIM).stat().st_mtime
    except OSError:
        return False
    maker = maker_of(place)
    # Without one: being written at this moment, or cut off long ago by a full disk.
    if maker is None or not maker.here:
        return silent < _SILENT
    # after a restart the number may be that of any other process
    return alive(maker.pid) and maker.born in ("", _born(maker.pid))


@contextmanager
def kept(own: Claim) -> Iterator[None]:
    """Renew a claim while the block works on its job, and release it then.

    If the job was taken over, because this machine seemed lost, the process ends at once: two must not write one run.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_EVERY):
            if not own.renew():
                print("unetkit: this job is in other hands by now", file=sys.stderr, flush=True)
                os._exit(_LOST)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        own.release()


def alive(process: int) -> bool:
    """Tell whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user, but there
        return True
    with suppress(OSError, IndexError):
        # a dead one that its parent has not asked about yet keeps its number; state Z on Linux
        return _status(process)[0] != "Z"
    return True


def _born(process: int) -> str:
    """Return when a process began, in ticks of the system since it was started; nothing where that is not told."""
    with suppress(OSError, IndexError):
        return _status(process)[19]
    return ""


def _status(process: int) -> list[str]:
    """Return what Linux tells of a process, from its state on."""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
