"""Our own manifest: a JSON object or a CSV table that lists cases with files, groups and splits.

JSON: `name`, `labels` ({value: meaning} or {name: values}), `ignore`, `channels` or `modality`, `cases` ({id: {image:
path or list, label, patient or group, roi or roi_mask, split, fold}}), and lists of ids `train`, `val`, `test` and
`test_...`. CSV: columns id, image (image2, image3, ...), label, group, roi, split, fold. Paths are relative to its
folder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetkit.data.declared import declared_from
from unetkit.data.layouts.found import Found, json_object, require_files, require_unique
from unetkit.errors import DataError, nearest
from unetkit.types import Case

NEEDS = "a split.json or manifest.json with an object `cases`, or a manifest.csv with columns id, image, label"
_NAMES = ("split.json", "manifest.json", "dataset.json")
_COLUMN = re.compile(r"^(id|image\d*|label|group|patient|roi|roi_mask|split|fold)$")
_SPLIT = re.compile(r"^(train|val|test|test_\w+)$")
_SPLIT_WORDS = {"training": "train", "valid": "val", "validation": "val", "testing": "test", "": None}


def find(root: Path) -> Found | None:
    """Recognise a manifest in a folder, or given as the file itself. Raises DataError if it is one with faults."""
    held = json_object(root, _NAMES)
    if held is not None and isinstance(held[1].get("cases"), dict | list):
        return _from_json(*held)
    table = root if root.is_file() else root / "manifest.csv"
    if table.suffix.lower() == ".csv" and table.is_file():
        return _from_csv(table)
    return None


def _from_json(path: Path, tree: Mapping[str, Any]) -> Found:
    listed = tree["cases"]
    if isinstance(listed, list):
        ids = [str(entry.get("id", n)) if isinstance(entry, Mapping) else str(n) for n, entry in enumerate(listed)]
        require_unique(ids, path)
        listed = dict(zip(ids, listed, strict=True))
    # Sides may be stated by lists or with each case; lists go first.
    splits = _listed_splits(path, tree, listed)
    cases = tuple(_case(path, name, entry, splits.get(name)) for name, entry in listed.items())
    require_files(cases, path)
    channels = tree.get("channels", tree.get("modality", []))
    ignore = tuple(int(value) for value in tree.get("ignore", []))
    return Found(
        "manifest",
        str(tree.get("name") or path.parent.name),
        cases,
        tuple(str(name) for name in ([channels] if isinstance(channels, str) else channels)),
        declared_from(tree.get("labels"), ignore),
    )


def _listed_splits(path: Path, tree: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, str]:
    """Return case id -> split of the id lists. Raises DataError for unknown ids and for an id in two lists."""
    splits: dict[str, str] = {}
    for key in filter(_SPLIT.match, tree):
        for name in tree[key] if isinstance(tree[key], list) else []:
            if name not in listed:
                raise DataError(f"{path}: '{name}' of list '{key}' is no case{nearest(str(name), listed)}; correct it")
            if name in splits:
                raise DataError(f"{path}: case '{name}' is in both '{splits[name]}' and '{key}'; keep it in one")
            splits[name] = key
    return splits


def _from_csv(path: Path) -> Found:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as UTF-8 text") from error
    # Spreadsheets write semicolons where the comma is the decimal sign.
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    head, *body = [*csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)] or [[]]
    columns = [column.strip() for column in head]
    rows = [dict(zip(columns, row, strict=False)) for row in body if any(cell.strip() for cell in row)]
    for column in columns:
        if not _COLUMN.match(column):
            known = ("id", "image", "image2", "label", "group", "roi", "split", "fold")
            raise DataError(f"{path}: unknown column '{column}'{nearest(column, known)}; known are {', '.join(known)}")
    if "id" not in columns or "image" not in columns:
        raise DataError(f"{path}: columns {', '.join(columns)}; at least id and image are needed")
    entries = [row["id"].strip() for row in rows]
    if "" in entries:
        raise DataError(f"{path}: case {entries.index('') + 1} has no id; give each case its own")
    require_unique(entries, path)
    cases = tuple(_case(path, name, _row(row), None) for name, row in zip(entries, rows, strict=True))
    require_files(cases, path)
    return Found("manifest", path.parent.name if path.stem in ("manifest", "split") else path.stem, cases)


def _row(row: Mapping[str, str]) -> dict[str, Any]:
    filled = {key: value.strip() for key, value in row.items() if value.strip()}
    images = [filled[key] for key in filled if key.startswith("image")]
    return {**filled, "image": images}


def _case(path: Path, name: str, entry: Any, listed: str | None) -> Case:
    if not isinstance(entry, Mapping):
        raise DataError(f"{path}: case '{name}' is {entry!r}; give an object with image and label")
    images = entry.get("image") or []
    images = images if isinstance(images, list) else [images]
    # Checked together: JSON may hold anything where a path should stand.
    files = [*images, entry.get("label") or "", entry.get("roi", entry.get("roi_mask")) or ""]
    if not all(isinstance(file, str) for file in files):
        raise DataError(f"{path}: case '{name}' has files {files}; give a path as text, or a list of paths as image")
    group = entry.get("group", entry.get("patient"))
    word = str(entry.get("split") or "").strip().lower()
    split = listed or _SPLIT_WORDS.get(word, word)
    if split and not _SPLIT.match(split):
        raise DataError(f"{path}: case '{name}' has split '{split}'; give train, val, test or test_...")
    fold = str(entry.get("fold", "")).strip()
    if fold and not fold.isdigit():
        raise DataError(f"{path}: case '{name}' has fold '{fold}'; give a whole number from 0")
    return Case(
        name,
        tuple(path.parent / image for image in images),
        path.parent / files[-2] if files[-2] else None,
        None if group in (None, "") else str(group),
        path.parent / files[-1] if files[-1] else None,
        split or None,
        int(fold) if fold else None,
    )
