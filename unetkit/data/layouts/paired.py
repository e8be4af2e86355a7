"""Images and masks in folders beside each other, or side by side in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from unetkit.data.formats.files import stem_of
from unetkit.data.layouts.found import Found, image_files, natural, require_unique, shown
from unetkit.data.layouts.matching import Pairing, is_mask_name, pair_up
from unetkit.errors import DataError
from unetkit.types import Case

NEEDS = "folders images/ and masks/ or labels/ (or train/images, train/masks, ...) whose files have matching names"
_IMAGES = ("images", "image", "imgs", "img", "imagesTr", "original", "originals", "input", "inputs")
_LABELS = (
    "masks", "labels", "1st_manual", "label", "mask", "annotations", "annotation", "segmentations", "segmentation",
    "ground_truth", "groundtruth", "gt", "labelsTr", "manual", "target", "targets",
)  # fmt: skip
_ROIS = ("fov", "roi", "rois", "mask")
_SIDES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def find(root: Path) -> Found | None:
    """Recognise paired folders, with train/val/test above or below them. Raises DataError if nothing matches."""
    cases: list[Case] = []
    notes: list[str] = []
    for images, labels, rois, side in _places(root):
        cases += _cases(images, labels, rois, side, notes)
    if not cases:
        cases = _flat(root, notes)
    if not cases:
        return None
    cases = _unique(cases)
    require_unique([case.id for case in cases], root)
    return Found("paired", root.resolve().name, tuple(cases), notes=tuple(notes))


def _places(root: Path) -> Iterator[tuple[Path, Path | None, Path | None, str | None]]:
    """Yield images, labels and regions of interest of each side of the split that the folder names tell."""
    folders = {path.name.lower(): path for path in _folders(root)}
    above = {name: trio for name in _SIDES if name in folders and (trio := _trio(folders[name]))}
    kinds = {labels.name.lower() for _, labels, _ in above.values() if labels}
    for name, (images, labels, rois) in above.items():
        if labels and labels.name.lower() in _ROIS and kinds - set(_ROIS):
            # DRIVE's test side may come without labels: its `mask` is the field of view, as on the other side.
            labels, rois = None, labels
        yield images, labels, rois, _SIDES[name]
    trio = _trio(root)
    if trio is None:
        return
    images, labels, rois = trio
    sides = {path.name.lower(): path for path in _folders(images)}
    # images/train with labels/train, as detection tools lay them out; else the images lie here directly.
    if image_files(images) or not set(sides) & set(_SIDES):
        yield images, labels, rois, None
        return
    for name in filter(_SIDES.get, sides):
        folder = sides[name].name
        yield sides[name], _below(labels, folder), _below(rois, folder), _SIDES[name]


def _trio(folder: Path) -> tuple[Path, Path | None, Path | None] | None:
    """Find the folder of images and, if they are there, those of labels and of regions of interest."""
    inside = {path.name.lower(): path for path in _folders(folder)}

    def first(names: Sequence[str], taken: Path | None = None) -> Path | None:
        return next((inside[n.lower()] for n in names if n.lower() in inside and inside[n.lower()] != taken), None)

    images = first(_IMAGES)
    if images is None:
        return None
    labels = first(_LABELS)
    # `mask` holds the field of view where the labels have a folder of their own, as in DRIVE.
    return images, labels, first(_ROIS, taken=labels)


def _below(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    return next((path for path in _folders(folder) if path.name.lower() == name.lower()), folder)


def _folders(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        (path for path in inside if path.is_dir() and not path.name.startswith(".")), key=lambda path: path.name
    )


def _cases(images: Path, labels: Path | None, rois: Path | None, side: str | None, notes: list[str]) -> list[Case]:
    files = image_files(images)
    if not files:
        raise DataError(f"{images}: holds no image of a known format; check data.root")
    pairing = pair_up(files, image_files(labels) if labels else [])
    if labels:
        _require_pairs(pairing, images, labels)
        notes += _remarks(pairing, images, labels)
    regions = pair_up(files, image_files(rois)).labels if rois else {}
    return [
        Case(name, channels, pairing.labels.get(name), roi=regions.get(name), split=side)
        for name, channels in pairing.images.items()
    ]


def _flat(root: Path, notes: list[str]) -> list[Case]:
    """Images and masks in one folder, told apart by their names: x.png beside x_mask.png."""
    files = image_files(root)
    masks = [path for path in files if is_mask_name(stem_of(path))]
    images = [path for path in files if path not in masks]
    if not images:
        return []
    pairing = pair_up(images, masks)
    if masks:
        _require_pairs(pairing, root, root)
        notes += _remarks(pairing, root, root)
    return [Case(name, channels, pairing.labels.get(name)) for name, channels in pairing.images.items()]


def _require_pairs(pairing: Pairing, images: Path, labels: Path) -> None:
    if pairing.labels:
        return
    example = next(iter(pairing.images.values()))[0].name
    held = image_files(labels)
    other = f"such as {pairing.lonely[0].name}" if pairing.lonely else f"{len(held)} files"
    raise DataError(
        f"no file of {labels} ({other}) matches an image of {images} (such as {example}); "
        "give both the same name, or write a manifest.csv with columns id, image, label"
    )


def _remarks(pairing: Pairing, images: Path, labels: Path) -> list[str]:
    notes = []
    without = [name for name in pairing.images if name not in pairing.labels]
    if without:
        notes.append(f"no label in {labels.name} for {shown(without)} ({len(without)}); not used for training")
    if pairing.lonely:
        notes.append(f"no image in {images.name} for {shown([p.name for p in pairing.lonely])}; left out")
    return notes


def _unique(cases: Sequence[Case]) -> list[Case]:
    """Cases of different sides may share a name; then the side becomes part of the id."""
    number = Counter(case.id for case in cases)
    renamed = [replace(case, id=f"{case.split}_{case.id}") if number[case.id] > 1 else case for case in cases]
    return sorted(renamed, key=lambda case: natural(case.id))
