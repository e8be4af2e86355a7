"""Synapse multi-organ CT (BTCV): raw img0001/label0001 volumes, and the slices that the TransUNet authors prepared.

Sides and class numbers are those of TransUNet (arXiv:2102.04306); the sides stand in the catalogue.
"""

from __future__ import annotations

import re
from pathlib import Path

from unetkit.data.catalog import known_dataset
from unetkit.data.declared import Declared
from unetkit.data.formats.arrays import WINDOW_HU
from unetkit.data.formats.files import stem_of
from unetkit.data.layouts.found import Found, image_files, shown
from unetkit.types import Case

RAW_NEEDS = "img0001.nii.gz with label0001.nii.gz, flat, in imagesTr/labelsTr or in Training/img and Training/label"
SLICES_NEEDS = "train_npz/case0005_slice000.npz and test_vol_h5/case0001.npy.h5"
ORGANS = {
    0: "background", 1: "spleen", 2: "right kidney", 3: "left kidney", 4: "gallbladder", 5: "oesophagus", 6: "liver",
    7: "stomach", 8: "aorta", 9: "inferior vena cava", 10: "portal and splenic veins", 11: "pancreas",
    12: "right adrenal gland", 13: "left adrenal gland",
}  # fmt: skip
PROTOCOL = {
    0: "background", 1: "aorta", 2: "gallbladder", 3: "left kidney", 4: "right kidney", 5: "liver", 6: "pancreas",
    7: "spleen", 8: "stomach",
}  # fmt: skip
_PLACES = (("imagesTr", "labelsTr"), ("Training/img", "Training/label"), ("img", "label"), (".", "."))
_IMAGE = re.compile(r"^img(\d{4})$")
_LABEL = re.compile(r"^label(\d{4})$")
_SLICE = re.compile(r"^case(\d{4})_slice\d+$")
_VOLUME = re.compile(r"^case(\d{4})$")


def find_raw(root: Path) -> Found | None:
    """Recognise the challenge's own NIfTI files, in any of the places where people keep them."""
    # The archive nests img and label in Training; people flatten it, or rename it for nnU-Net.
    for images, labels in _PLACES:
        if numbers := _numbered(root / images, _IMAGE):
            return _raw(numbers, _numbered(root / labels, _LABEL))
    return None


def find_slices(root: Path) -> Found | None:
    """Recognise the prepared files; the slices of a training case are read as one volume."""
    for folder in (root, root / "Synapse"):
        sliced = _numbered(folder / "train_npz", _SLICE)
        whole = _numbered(folder / "test_vol_h5", _VOLUME)
        if sliced or whole:
            return _prepared(folder, sliced, whole)
    return None


def _raw(images: dict[str, Path], labels: dict[str, Path]) -> Found:
    cases = tuple(_case(number, path, labels.get(number)) for number, path in sorted(images.items()))
    without = [case.id for case in cases if case.label is None]
    lonely = [path.name for number, path in labels.items() if number not in images]
    notes = [f"no label for {shown(without)}; not used for training"] if without else []
    notes += [f"no image for {shown(lonely)}; left out"] if lonely else []
    return Found("synapse_raw", "synapse", cases, ("CT",), Declared(ORGANS), tuple(notes))


def _prepared(folder: Path, sliced: dict[str, Path], whole: dict[str, Path]) -> Found:
    cases = []
    for number in sorted(sliced | whole):
        # A pattern stands for the slices of a volume; a case that is also there as a whole is read from one file.
        pattern = folder / "train_npz" / f"case{number}_slice*.npz"
        path = whole.get(number, pattern)
        # Some copies hold the training volumes as a whole besides: then the published lists decide, not the folder.
        side = "test" if number in whole else "train"
        if number in sliced and number in whole:
            side = known_dataset("synapse").side(f"case{number}") or side
        cases.append(Case(f"case{number}", (path,), path, split=side))
    sides = {"train_npz": sliced, "test_vol_h5": whole}
    notes = [f"{side} is missing or empty" for side, there in sides.items() if not there]
    low, high = WINDOW_HU
    notes.append(f"prepared values of 0 to 1 are read as the CT values they came from, {low:g} to {high:g} HU")
    return Found("synapse_slices", "synapse", tuple(cases), ("CT",), Declared(PROTOCOL, fixed=True), tuple(notes))


def _case(number: str, image: Path, label: Path | None) -> Case:
    """Cases beyond the 30 of the challenge belong to no published side."""
    name = f"case{number}"
    return Case(name, (image,), label, split=known_dataset("synapse").side(name))


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """Return case number -> one of its files."""
    return {match[1]: path for path in image_files(folder) if (match := pattern.match(stem_of(path)))}
