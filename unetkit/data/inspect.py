"""What a data set is, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unetkit.data.cases import encode_label, read_label, require_finite
from unetkit.data.datasets import Dataset
from unetkit.data.formats.files import suffix_of
from unetkit.data.geometry import orientation
from unetkit.data.labels import count_values
from unetkit.data.volumes import read_images, read_volume
from unetkit.errors import UnetkitError, counted
from unetkit.types import IGNORE, Case, Labels, Volume

Progress = Callable[[int, int], None]
_SHOWN = 12


@dataclass
class _CaseFacts:
    """What one case shows; `problem` is the message that reading it ended in."""

    case: Case
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str | None = None
    dtype: str = ""
    low: float = 0.0
    high: float = 0.0
    values: dict[int, int] = field(default_factory=dict)
    empty: bool = False
    problem: str | None = None


def inspect_dataset(dataset: Dataset, progress: Progress | None = None, threads: int = 4) -> dict[str, Any]:
    """Read every case and return what was seen, as plain lists, numbers and strings.

    `problems` has one entry a fault, with the case (or None) and the message; `notes` tells what was assumed.
    `progress` is called with the number of cases done and of all.
    """
    facts: list[_CaseFacts] = []
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(lambda case: _look(case, dataset.labels), dataset.cases):
            facts.append(found)
            if progress is not None:
                progress(len(facts), len(dataset.cases))
    good = [fact for fact in facts if fact.shape]
    return {**_overview(dataset), **_geometry(good), **_contents(dataset, facts), **_findings(dataset, facts)}


def inspection_table(found: dict[str, Any]) -> str:
    """Lay out what `inspect_dataset` found as lines of name and value."""
    lines = [
        ("data set", f"{found['name']} ({found['layout']}) in {found['root']}"),
        ("cases", f"{found['cases']}, {found['labelled']} with labels, {found['groups']} groups"),
        ("split", ", ".join(f"{side} {number}" for side, number in found["splits"].items())),
        ("files", ", ".join(f"{number} {suffix}" for suffix, number in found["formats"].items())),
        ("images", f"{found['dims']}D, channels: {', '.join(found['channels'])}"),
    ]
    if found["sizes"]:
        place = [
            ("spacing", f"{_spread(found['spacings'], ' x ')} mm, largest over smallest {found['anisotropy']:g}"),
            ("orientation", ", ".join(f"{number} {code}" for code, number in found["orientations"].items()) or "-"),
        ]
        low, high = found["intensity"]
        lines += [("size", _spread(found["sizes"], " x ")), *(place if found["dims"] == 3 else [])]
        lines.append(("values", f"{', '.join(found['dtypes'])}, {low:g} to {high:g}"))
    lines.append(("classes", ", ".join(found["classes"]) or "-"))
    if found["label_values"]:
        lines.append(("label values", _values_text(found["label_values"])))
    lines += [("note", note) for note in found["notes"]]
    lines += [("PROBLEM", problem["message"]) for problem in found["problems"]]
    return "\n".join(f"{name:<13}{value}" for name, value in lines)


def _look(case: Case, labels: Labels | None) -> _CaseFacts:
    facts = _CaseFacts(case)
    try:
        _look_inside(facts, labels)
    except UnetkitError as error:
        # One bad case must not hide what the others show; it becomes a line of the findings.
        facts.problem = str(error)
    return facts


def _look_inside(facts: _CaseFacts, labels: Labels | None) -> None:
    case = facts.case
    if not case.images:  # label maps alone, which the data set counts among its faults
        if case.label is not None:
            facts.values = count_values(read_volume(case.label, label=True).data)
        return
    image = read_images(case)
    _measure(facts, image)
    require_finite(case, image)
    if case.label is None:
        return
    raw = read_label(case, image)
    # Fractions (grey masks, probabilities) have no values worth counting.
    if raw.data.dtype.kind != "f":
        facts.values = count_values(raw.data)
    if labels is not None:
        encoded = encode_label(case, image, raw, labels).data
        facts.empty = not ((encoded > 0) & (encoded < IGNORE)).any()


def _measure(facts: _CaseFacts, image: Volume) -> None:
    facts.shape, facts.spacing, facts.dtype = image.shape, image.spacing, image.data.dtype.name
    facts.orientation = orientation(image)
    data = image.data
    if data.dtype.kind == "f" and not np.isfinite(data).all():  # JSON knows neither NaN nor infinity
        data = data[np.isfinite(data)]
    facts.low, facts.high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)


def _overview(dataset: Dataset) -> dict[str, Any]:
    files = [path for case in dataset.cases for path in (*case.images, case.label, case.roi) if path is not None]
    splits = Counter(case.split or "not stated" for case in dataset.cases)
    return {
        "name": dataset.name,
        "root": str(dataset.root),
        "layout": dataset.layout,
        "dims": dataset.dims,
        "cases": len(dataset.cases),
        "labelled": len(dataset.labelled),
        "groups": len({case.group or case.id for case in dataset.cases}),
        "splits": dict(splits),
        "formats": dict(Counter(suffix_of(path) for path in files).most_common()),
        "channels": list(dataset.channels),
    }


def _geometry(facts: Sequence[_CaseFacts]) -> dict[str, Any]:
    """Smallest, median and largest of sizes and spacings per axis, over cases of the usual number of axes."""
    # Sizes of pictures and volumes cannot be put into one table; the rarer kind is named as a fault.
    usual = Counter(len(fact.shape) for fact in facts).most_common(1)
    alike = [fact for fact in facts if usual and len(fact.shape) == usual[0][0]]
    ratios = [max(fact.spacing) / min(fact.spacing) for fact in alike]
    return {
        "sizes": _spread_of([fact.shape for fact in alike]),
        "spacings": _spread_of([fact.spacing for fact in alike]),
        "anisotropy": round(float(np.median(ratios)), 2) if ratios else None,
        "orientations": dict(Counter(fact.orientation for fact in alike if fact.orientation).most_common()),
        "dtypes": dict(Counter(fact.dtype for fact in facts).most_common()),
        "intensity": [min(f.low for f in facts), max(f.high for f in facts)] if facts else None,
    }


def _contents(dataset: Dataset, facts: Sequence[_CaseFacts]) -> dict[str, Any]:
    voxels: Counter[int] = Counter()
    cases: Counter[int] = Counter()
    for fact in facts:
        # A mapping adds up its voxels; its keys alone count the case once for each value.
        voxels.update(fact.values)
        cases.update(fact.values.keys())
    labels = dataset.labels
    return {
        "classes": list(labels.classes) if labels else [],
        "class_values": dict(zip(labels.classes, map(list, labels.values), strict=True)) if labels else {},
        "regions": bool(labels and labels.regions),
        "ignore": list(labels.ignore) if labels else [],
        "threshold": labels.threshold if labels else None,
        "label_values": {str(value): {"voxels": voxels[value], "cases": cases[value]} for value in sorted(voxels)},
    }


def _findings(dataset: Dataset, facts: Sequence[_CaseFacts]) -> dict[str, Any]:
    problems = [{"case": None, "message": fault} for fault in dataset.faults]
    problems += [{"case": fact.case.id, "message": fact.problem} for fact in facts if fact.problem]
    empty = [fact.case.id for fact in facts if fact.empty]
    notes = list(dataset.notes)
    if empty:
        names = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        notes.append(f"no foreground in {counted(len(empty), 'case')}: {names}")
    return {"notes": notes, "problems": problems, "ok": not problems}


def _spread_of(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    if not rows:
        return {}
    table = np.asarray(rows, dtype=np.float64)
    named = {"min": table.min(0), "median": np.median(table, 0), "max": table.max(0)}
    return {name: [round(float(value), 4) for value in values] for name, values in named.items()}


def _spread(spread: dict[str, list[float]], sign: str) -> str:
    if spread["min"] == spread["max"]:
        return sign.join(f"{value:g}" for value in spread["min"])
    return ", ".join(f"{name} {sign.join(f'{value:g}' for value in values)}" for name, values in spread.items())


def _values_text(values: dict[str, dict[str, int]]) -> str:
    shown = [
        f"{value} ({counted(found['voxels'], 'voxel')}, {counted(found['cases'], 'case')})"
        for value, found in values.items()
    ]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
