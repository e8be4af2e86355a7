"""What a run says of itself: log.jsonl always, TensorBoard if asked, a bar or one line an epoch on stderr."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unetkit.errors import CheckpointError, RecipeError


class RunLog:
    """Appends records to `log.jsonl`, one JSON object a line; each has `step` and `epoch`.

    `position` is the file's length in bytes: a resumed run cuts off what was written after its checkpoint.
    """

    def __init__(self, folder: Path, position: int = 0, step: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl"
        # unbuffered: after a failed write nothing waits to be written again when the file is closed
        self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
        self._file.truncate(min(position, self._file.seek(0, 2)))
        self._file.seek(0, 2)
        self._board = _open_board(folder, step) if tensorboard else None

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it has left the process when this returns. Raises CheckpointError for a full disk."""
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path} ({error.strerror}); free some space and go on with resume={self.path.parent}"
            ) from error
        if self._board:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board:
            self._board.close()


class NoLog:
    """In place of a RunLog in the processes that write nothing."""

    position = 0

    def write(self, record: dict[str, Any]) -> None:
        """Leave the record to the first process."""

    def close(self) -> None:
        """Nothing is open."""


def _open_board(folder: Path, step: int) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

    # TensorBoard hides what a killed process had written beyond the checkpoint
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def require_tensorboard() -> None:
    """Raise RecipeError if the optional package is not installed."""
    if find_spec("tensorboard") is None:
        raise RecipeError(
            "train.tensorboard=true needs the package 'tensorboard'; run: pip install unetkit[tensorboard]"
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `log.jsonl`, without a last line that was cut off."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


_BY_THE_CLOCK = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s{postfix}"


class Display:
    """Progress of the steps on stderr: a bar with rate, time left and loader wait, or a line an epoch if piped.

    Of a training whose steps nobody knows the bar shows the `seconds` that it lasts.
    """

    def __init__(self, total: int | None, done: int, shown: bool, seconds: float = 0.0) -> None:
        self.shown, self._counts = shown, total is not None
        self._bar = None
        if shown and sys.stderr.isatty():
            counted: dict[str, Any] = {"total": total, "initial": done, "unit": "step"}
            timed: dict[str, Any] = {"total": seconds, "bar_format": _BY_THE_CLOCK}
            self._bar = tqdm(desc="train", dynamic_ncols=True, **(counted if self._counts else timed))

    def step(self, seconds: float) -> None:
        """Count one step, after so many seconds of training."""
        if self._bar is not None:
            self._bar.update(1 if self._counts else min(seconds, self._bar.total) - self._bar.n)

    def numbers(self, loss: float, wait: float) -> None:
        """Show the present loss and the share of the time spent waiting for the loader."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, loader wait {wait:.0%}", refresh=False)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self.shown:  # not by tqdm, which makes its lock at its first line and fails if Ctrl-C comes just then
            print(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()
