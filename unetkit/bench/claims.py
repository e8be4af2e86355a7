"""Who works on a job: a file that only one process can make, and that is taken over when its maker has gone.

On one machine a maker has gone when its process has; on another one that shares the folder, when it has not renewed the
file for a while.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

CLAIM = "claim.json"
_SILENT = 600.0
"""Seconds without renewal after which a maker on another machine counts as gone."""


@dataclass(frozen=True)
class Claim:
    """A job's folder that this process works on."""

    path: Path

    def renew(self) -> None:
        """Show other machines that the work goes on."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Leave the job to others."""
        self.path.unlink(missing_ok=True)


def claim(place: Path) -> Claim | None:
    """Claim a job's folder, which is made if need be; None if another process works on it."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / CLAIM
    if path.exists() and not held(place):
        # Renaming succeeds for one of those that find it abandoned, and for no other.
        grave = path.with_name(f".{uuid4().hex}.{CLAIM}")
        with suppress(FileNotFoundError):
            path.rename(grave)
            grave.unlink()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    return Claim(path)


def held(place: Path) -> bool:
    """Tell whether a process works on a job's folder."""
    path = place / CLAIM
    try:
        silent = time.time() - path.stat().st_mtime
        maker = json.loads(path.read_text(encoding="utf-8"))
        host, process = str(maker["host"]), int(maker["pid"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        # Being written at this moment, or cut off long ago by a full disk.
        return path.exists() and time.time() - path.stat().st_mtime < _SILENT
    return _alive(process) if host == socket.gethostname() else silent < _SILENT


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user, but there
        return True
    return True
