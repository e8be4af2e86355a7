"""The scores of predicted objects, in a JSON file beside their label map: number of the object to score from 0 to 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from unetkit.data.formats.files import replacing, stem_of
from unetkit.errors import DataError


def scores_file(label_map: Path) -> Path:
    """Return the path of the scores that belong to a label map."""
    return label_map.with_name(f"{stem_of(label_map)}_scores.json")


def write_scores(label_map: Path, scores: np.ndarray) -> None:
    """Write the scores [N] of the objects 1 to N of a label map, or to be; whole or not at all. Raises DataError."""
    with replacing(scores_file(label_map)) as temporary:
        text = json.dumps({number: round(float(score), 6) for number, score in enumerate(scores, start=1)}, indent=1)
        temporary.write_text(text, encoding="utf-8")


def read_scores(label_map: Path, numbers: np.ndarray) -> np.ndarray | None:
    """Return the scores [N] of the objects 1 to N of a label map [*S], NaN for numbers it lacks; None without a file.

    Raises DataError for a file that cannot be read, or lacks an object of the map.
    """
    path = scores_file(label_map)
    if not path.is_file():
        return None
    try:
        found = {int(number): float(score) for number, score in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it, or predict anew") from error
    present = np.unique(numbers)
    missing = [int(n) for n in present[present > 0] if n not in found]
    if missing:
        raise DataError(f"{path}: has no score of object {missing[0]} of {label_map.name}; delete it, or predict anew")
    return np.array([found.get(n, np.nan) for n in range(1, int(present.max(initial=0)) + 1)], np.float32)
