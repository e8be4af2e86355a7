"""Datalist JSON of the Medical Segmentation Decathlon and of MONAI: lists `training`, `validation` and `test`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unetkit.data.declared import declared_from
from unetkit.data.formats.files import stem_of
from unetkit.data.layouts.found import Found, json_object, require_files, require_unique
from unetkit.errors import DataError
from unetkit.types import Case

NEEDS = "a dataset.json or datalist.json with a list `training` of {image, label}"
_NAMES = ("dataset.json", "datalist.json", "dataset_0.json")
_LISTS = {"training": "train", "validation": "val", "test": "test", "testing": "test"}


def find(root: Path) -> Found | None:
    """Recognise a datalist. Raises DataError if an entry has no image or a file is missing."""
    held = json_object(root, _NAMES)
    if held is None or not isinstance(held[1].get("training"), list):
        return None
    path, tree = held
    cases = []
    for key, split in _LISTS.items():
        for number, entry in enumerate(tree.get(key) or []):
            cases.append(_case(path, f"{key}[{number}]", entry, split, stated=_states_split(tree, key)))
    cases = _distinct(cases)
    # Ids name prediction files and rows of tables, so they must be unique.
    require_unique([case.id for case in cases], path)
    require_files(cases, path)
    # The Decathlon writes {"0": "MRI"}, MONAI's lists often a plain text or nothing.
    modality = tree.get("modality") or tree.get("channel_names") or {}
    channels = modality.values() if isinstance(modality, Mapping) else [modality]
    return Found(
        "decathlon",
        str(tree.get("name") or path.parent.name),
        tuple(cases),
        tuple(str(name) for name in channels),
        declared_from(tree.get("labels")),
    )


def _distinct(cases: list[Case]) -> list[Case]:
    """Where each case has a folder and the files in it share their names, the folder becomes part of the id."""
    if len({case.id for case in cases}) == len(cases):
        return cases
    return [replace(case, id=f"{case.images[0].parent.name}_{case.id}") for case in cases]


def _states_split(tree: Mapping[str, Any], key: str) -> bool:
    """A training list says who trains only if the file also says who validates or who tests with labels."""
    others = [entry for name in _LISTS if name != "training" for entry in tree.get(name) or []]
    return key != "training" or any(isinstance(entry, Mapping) and entry.get("label") for entry in others)


def _case(path: Path, where: str, entry: Any, split: str, stated: bool) -> Case:
    entry = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or not entry.get("image"):
        raise DataError(f"{path}: {where} has no image; give {{image: path, label: path}}")
    files = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    label = entry.get("label") or ""
    if not all(isinstance(file, str) for file in [*files, label]):
        raise DataError(f"{path}: {where} has files {[*files, label]}; give paths as text, one label for each case")
    images = tuple(path.parent / file for file in files)
    fold = entry.get("fold")
    group = entry.get("group", entry.get("patient", entry.get("subject")))
    return Case(
        stem_of(images[0]),
        images,
        path.parent / label if label else None,
        None if group is None else str(group),
        split=split if stated else None,
        fold=int(fold) if isinstance(fold, int) else None,
    )
