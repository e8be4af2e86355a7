"""Commands of unetkit in processes of their own: how they start, why they ended, and how they stop without loss."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

OUTPUT = "output.txt"
"""In a run's folder: what its process printed."""
STOPPED = 130
"""Exit code of a command that Ctrl-C stopped."""
_TAIL = 65536

Process = subprocess.Popen[bytes]


def started(words: Sequence[str], output: Path, first: Callable[[], None], folder: Path | None = None) -> Process:
    """Start a command line, whose last line of output is a JSON document, in `folder`; what it prints is appended.

    `first` is done by the new process before all else.
    """
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "unetkit", *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # Ctrl-C in a terminal reaches this process alone, which passes it on once
            start_new_session=True,
            preexec_fn=first,
        )


def why_ended(code: int, output: Path) -> str:
    """Return why a process failed, by its own words where it was refused something, else by its exit code."""
    said = last_words(output) if code == 2 else ""
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return said or f"its process {ended}; see {output}"


def last_words(output: Path) -> str:
    """Return the error of the JSON document that a refused command ends with."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        return str(json.loads(tail(output)[-1])["error"])
    return ""


def tail(file: Path) -> list[str]:
    """Return the last lines of a file; the first of them may be cut."""
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - _TAIL))
        return opened.read().decode(errors="replace").splitlines()


def end_all(processes: Iterable[Process]) -> None:
    """Pass Ctrl-C on, and wait until the checkpoints are saved; a second one ends the processes at once."""
    processes = list(processes)
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
