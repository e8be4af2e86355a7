"""What can go wrong with what a user gave.

    UnetkitError
    ├── RecipeError      a key, value or combination in a recipe or on the command line
    ├── ModelError       an unknown model, or one that cannot be built as asked
    ├── DataError        a file or data set that cannot be used as it is
    ├── ShapeError       an array of the wrong shape, dims or spacing
    └── CheckpointError  a run or checkpoint that cannot be loaded or saved

Each message is one line that says what was given, what is allowed and what to do.
The command line prints it and exits with 2; any other exception is a bug.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UnetkitError(Exception):
    """Base of all errors that the user's input can cause."""


class RecipeError(UnetkitError):
    """A recipe or command line that cannot be followed; `faults` lists every one found."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class ModelError(UnetkitError):
    """An unknown model, a refused option, or a missing optional package."""


class DataError(UnetkitError):
    """A file, case or data set that cannot be used as it is."""


class ShapeError(UnetkitError):
    """An array whose shape, number of axes or size is not allowed."""


class CheckpointError(UnetkitError):
    """A run folder or checkpoint that cannot be read or written."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the allowed name most like the given one, or ""."""
    found = get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 class, 2 classes."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
