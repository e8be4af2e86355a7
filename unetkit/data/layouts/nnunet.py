"""nnU-Net's raw folders: dataset.json, imagesTr/<case>_0000.<ending>, labelsTr/<case>.<ending>, imagesTs.

A splits_final.json beside them says in which fold each case validates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unetkit.data.declared import declared_from
from unetkit.data.formats.files import stem_of, suffix_of
from unetkit.data.layouts.found import Found, image_files, json_object, natural, read_json, require_files, shown
from unetkit.errors import DataError
from unetkit.types import Case

NEEDS = "a dataset.json with `channel_names` (or `modality`) and `labels`, and imagesTr with files that end in _0000"
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def find(root: Path) -> Found | None:
    """Recognise a raw data set of version 1 or 2. Raises DataError if its parts contradict each other."""
    held = json_object(root, ("dataset.json",))
    if held is None:
        return None
    path, tree = held
    folder = path.parent
    # The Decathlon has a dataset.json of the same name; only nnU-Net numbers channels in file names.
    numbered = any(_CHANNEL.match(stem_of(image)) for image in image_files(folder / "imagesTr"))
    if not (numbered or isinstance(tree.get("dataset"), dict)) or not (tree.get("channel_names") or numbered):
        return None
    names = tree.get("channel_names") or tree.get("modality") or {}
    channels = tuple(str(names[key]) for key in sorted(names, key=natural)) if isinstance(names, Mapping) else ()
    ending = str(tree.get("file_ending") or "")
    notes: list[str] = []
    if isinstance(tree.get("dataset"), dict):
        cases = [_listed(folder, name, entry) for name, entry in tree["dataset"].items()]
    else:
        cases = _side(folder, "Tr", ending, notes) + _side(folder, "Ts", ending, notes)
    if not cases:
        raise DataError(f"{folder}: imagesTr holds no images that end in '{ending}'; check file_ending in dataset.json")
    require_files(cases, path)
    cases = _with_folds(cases, folder / "splits_final.json", notes)
    return Found(
        "nnunet", str(tree.get("name") or folder.name), tuple(cases), channels, declared_from(tree.get("labels")),
        tuple(notes),
    )  # fmt: skip


def _side(folder: Path, side: str, ending: str, notes: list[str]) -> list[Case]:
    """Group the channels of imagesTr or imagesTs by case, and look for the labels beside."""
    channels: dict[str, list[Path]] = {}
    for image in image_files(folder / f"images{side}"):
        match = _CHANNEL.match(stem_of(image))
        if match and (not ending or suffix_of(image) == ending.lower()):
            channels.setdefault(match["case"], []).append(image)
    labels = {stem_of(path): path for path in image_files(folder / f"labels{side}")}
    without = [name for name in channels if name not in labels]
    lonely = [name for name in labels if name not in channels]
    if lonely:
        notes.append(f"labels{side}: no image for {shown(lonely)}; left out")
    if without and side == "Tr":
        notes.append(f"imagesTr: no label for {shown(without)}; not used for training")
    # Test images mostly come without labels; then they are there to be predicted only.
    tested = "test" if side == "Ts" else None
    return [Case(name, tuple(images), labels.get(name), split=tested) for name, images in channels.items()]


def _listed(folder: Path, name: str, entry: Any) -> Case:
    if not isinstance(entry, Mapping) or not entry.get("images") or not entry.get("label"):
        raise DataError(f"{folder / 'dataset.json'}: case '{name}' of `dataset` needs images (a list) and label")
    return Case(name, tuple(folder / image for image in entry["images"]), folder / entry["label"])


def _with_folds(cases: list[Case], path: Path, notes: list[str]) -> list[Case]:
    """Give cases the fold in which nnU-Net's own splits have them validate; test cases have none."""
    if not path.is_file():
        return cases
    held = [_validating(path, number, entry) for number, entry in enumerate(_entries(path))]
    folds = {name: number for number, names in enumerate(held) for name in names}
    known = {case.id for case in cases if case.split != "test"}
    if unknown := [name for name in folds if name not in known]:
        raise DataError(f"{path}: {shown(unknown)} validates, but is no training case; correct the list, or delete it")
    if sum(map(len, held)) > len(folds):
        notes.append(f"{path.name}: cases validate in several folds, which is no partition; not used")
        return cases
    notes.append(f"{path.name}: its {len(held)} folds are used")
    return [replace(case, fold=folds.get(case.id)) for case in cases]


def _entries(path: Path) -> Sequence[Any]:
    tree = read_json(path)
    if not isinstance(tree, list) or not tree:
        raise DataError(f"{path}: needs a list with train and val of each fold; correct it, or delete it")
    return tree


def _validating(path: Path, number: int, entry: Any) -> list[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("val"), list):
        raise DataError(f"{path}: fold {number} has no list of val cases; correct it, or delete the file")
    return [str(name) for name in entry["val"]]
