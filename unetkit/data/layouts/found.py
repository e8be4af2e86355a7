"""What every layout gives back, and how they list and name files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetkit.data.declared import Declared
from unetkit.data.volumes import is_known
from unetkit.errors import DataError
from unetkit.types import Case

_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A recognised folder: its layout's name, its own name, its cases, and what it says on channels and labels."""

    layout: str
    name: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ()
    declared: Declared = field(default_factory=Declared)
    notes: tuple[str, ...] = ()


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder in natural order; hidden files, `._` twins and broken links are left out."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and is_known(path) and path.is_file()]
    return sorted(found, key=lambda path: natural(path.name))


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key by which case2 comes before case10."""
    parts = re.split(r"(\d+)", text.lower())
    # Pairs (kind, value), since numbers and texts do not compare.
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError with line and column if it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); correct it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its rights") from error


def json_object(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """Return the JSON object in `root` itself if it is a file, or in the first of `names` within it."""
    if root.is_file():
        paths = [root] if root.suffix.lower() == ".json" else []
    else:
        paths = [root / name for name in names if (root / name).is_file()]
    for path in paths:
        tree = read_json(path)
        if isinstance(tree, dict):
            return path, tree
    return None


def require_files(cases: Iterable[Case], where: Path) -> None:
    """Raise DataError that names the first missing file and counts the others."""
    missing = [
        (case.id, path)
        for case in cases
        for path in (*case.images, case.label, case.roi)
        # A pattern stands for many files (prepared Synapse slices), found when it is read.
        if path is not None and "*" not in path.name and not path.is_file()
    ]
    if missing:
        case, path = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{where}: case {case} names {path}, which is not there{more}; correct the list or add files")


def require_unique(ids: Sequence[str], where: Path) -> None:
    """Raise DataError if two cases have one id."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(f"{where}: two cases are called '{name}'; give each its own id")
        seen.add(name)


def shown(names: Sequence[str]) -> str:
    """Join the first few names, and say how many there are beyond."""
    listed = ", ".join(names[:_SHOWN])
    return f"{listed} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else listed
