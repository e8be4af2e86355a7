"""What all formats share: faults named after the file, and writing that never leaves half a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from uuid import uuid4

from unetkit.errors import DataError, UnetkitError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Peek:
    """What the header of a file tells: channels C, spatial shape S, and the affine to RAS+ where it has one."""

    channels: int
    shape: tuple[int, ...]
    affine: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a reading library raises over a damaged file into one line that names the file.

    Raises DataError.
    """
    try:
        yield
    # Our own lines name the fault already, and lack of memory is no fault of the file.
    except (UnetkitError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path, or take it out of the list of cases") from error
    except Exception as error:  # a decoder may raise anything over broken bytes: struct.error, KeyError, zlib.error...
        raise DataError(
            f"{path}: cannot be read ({first_line(error)}); the file is damaged, cut off or not what its name says: "
            "get it anew or leave it out"
        ) from error


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it into place only when all is on disk.

    Without `sync` it need not be there yet: for files that may be lost. Raises DataError if the folder cannot be
    written or the disk is full; nothing is left behind then.
    """
    temporary: Path | None = None
    made: tuple[Path, ...] = ()
    try:
        made = make_folder(path.parent)
        # The full name comes last, because writers choose the format by suffix.
        temporary = path.parent / f".{uuid4().hex}.{path.name}"
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                # Without it a crash after the rename may leave a file of the right name and no content.
                os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: cannot be written ({first_line(error)}); check the folder's rights and the space on the disk"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                # After a good write the name is gone already; after a bad one nothing must stay behind.
                temporary.unlink()
        remove_empty(made)


def make_folder(path: Path) -> tuple[Path, ...]:
    """Make a folder and those around it, and return the ones that were not there, innermost first. Raises OSError."""
    missing = tuple(folder for folder in (path, *path.parents) if not folder.exists())
    path.mkdir(parents=True, exist_ok=True)
    return missing


def require_writable(folder: Path) -> tuple[Path, ...]:
    """Make an output folder, and return what had to be made, innermost first. Raises DataError if it takes no file."""
    made: tuple[Path, ...] = ()
    try:
        made = make_folder(folder)
        # Rights alone do not tell: file systems can be read-only or full.
        TemporaryFile(dir=folder).close()
    except OSError as error:
        remove_empty(made)
        raise DataError(f"output={folder}: cannot be written ({error.strerror}); choose another folder") from error
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Take folders away again, in the order given, as far as nothing lies in them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def first_line(error: BaseException) -> str:
    """Return the last line that says something in an error's text (ITK puts its message there), without paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def suffix_of(path: Path) -> str:
    """Return the format's suffix in lower case, with the double ones (.nii.gz, .npy.h5) whole."""
    parts = [part.lower() for part in path.suffixes[-2:]]
    double = "".join(parts)
    return double if double in (".nii.gz", ".npy.h5") else (parts[-1] if parts else "")


def stem_of(path: Path) -> str:
    """Return the file name without its format's suffix."""
    ending = suffix_of(path)
    return path.name[: -len(ending)] if ending else path.name
