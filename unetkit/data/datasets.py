"""A data set: recognised in its folder (or generated), with cases, channels and final labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from unetkit.data.cases import read_case
from unetkit.data.catalog import KnownDataset, known_dataset, missing_message
from unetkit.data.declared import final_labels
from unetkit.data.formats.files import Peek
from unetkit.data.labelscan import scan_labels
from unetkit.data.layouts import decathlon, manifest, nnunet, paired, synapse
from unetkit.data.layouts.found import Found, shown
from unetkit.data.volumes import peek_volume
from unetkit.errors import DataError, RecipeError, counted, nearest
from unetkit.recipe.schema import DataSection
from unetkit.types import Case, Labels

__all__ = ["LAYOUTS", "Dataset", "open_dataset", "read_case", "require_trainable"]

# In this order: what describes itself goes before what is guessed from names.
LAYOUTS: dict[str, tuple[Callable[[Path], Found | None], str]] = {
    "manifest": (manifest.find, manifest.NEEDS),
    "nnunet": (nnunet.find, nnunet.NEEDS),
    "decathlon": (decathlon.find, decathlon.NEEDS),
    "synapse_slices": (synapse.find_slices, synapse.SLICES_NEEDS),
    "synapse_raw": (synapse.find_raw, synapse.RAW_NEEDS),
    "paired": (paired.find, paired.NEEDS),
}


@dataclass(frozen=True)
class Dataset:
    """Cases that belong together, and what is known of all of them.

    `dims`: spatial axes of the images; `labels` are final, None if nothing is labelled; `notes` say what was assumed
    or left out, `faults` what forbids training on it as it is. `limit`: at most so many cases of each split.
    """

    name: str
    root: Path
    layout: str
    cases: tuple[Case, ...]
    dims: int
    labels: Labels | None
    channels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    limit: int | None = None

    def case(self, name: str) -> Case:
        """Return the case of that id. Raises DataError with the nearest one."""
        for case in self.cases:
            if case.id == name:
                return case
        raise DataError(f"{self.name}: no case '{name}'{nearest(name, [case.id for case in self.cases])}")

    @property
    def labelled(self) -> tuple[Case, ...]:
        """Cases that have an image and a label."""
        return tuple(case for case in self.cases if case.images and case.label is not None)


WHOLE = Labels(("image",), ((1,),))
"""Labels of images that are learned from without any: every voxel is of one class."""


def open_dataset(section: DataSection, home: Path | None = None, *, unlabelled: bool = False) -> Dataset:
    """Recognise the folder that a recipe names, or generate the data set below `home` and read it back.

    `unlabelled`: for training on images alone; label files are not needed, nor opened, and each image stands for its
    own label (see `read_label`).
    Raises DataError if there is nothing usable, RecipeError if the recipe contradicts itself or the data.
    """
    known = None if section.dataset is None else known_dataset(section.dataset)
    root = _root(section, known, home)
    found = _recognise(root, section.layout)
    # After recognition: sides that the folder states go before those of the catalogue.
    cases = _with_known_sides(found.cases, known)
    if unlabelled:
        cases = tuple(replace(case, label=case.images[0] if case.images else None, unlabelled=True) for case in cases)
    section = section if known is None else known.fill_in(section)
    peeks = _peek_all(cases)
    dims, number = _usual(peeks)
    # `scan` opens label files, and is called only where the recipe leaves their meaning open.
    paths = [case.label for case in cases if case.label is not None]
    labels, notes = (WHOLE if unlabelled else None), list[str]()
    if paths and not unlabelled:
        labels, notes = final_labels(section, found.declared, lambda d: scan_labels(paths, d))
    return Dataset(
        section.dataset or found.name,
        root,
        found.layout,
        cases,
        dims,
        labels,
        _channel_names(section, found, number, dims),
        (*found.notes, *notes),
        _faults(cases, peeks),
        # A generated set has been made with just so many cases; real ones are cut down when they are split.
        None if known is not None and known.generated else section.cases,
    )


def require_trainable(dataset: Dataset) -> None:
    """Raise DataError if the cases cannot be trained on together: no labels, other channels, other axes."""
    if dataset.faults:
        raise DataError(f"{dataset.name}: {dataset.faults[0]}")


def _root(section: DataSection, known: KnownDataset | None, home: Path | None) -> Path:
    if known is not None and known.generated:
        from unetkit.data.phantoms.write import generate

        return generate(known.name, section.generator, section.cases, home)
    if section.generator:
        raise RecipeError("data.generator is for generated data sets only; drop it, or use data.dataset=phantom2d")
    if section.root is None:
        if known is not None:
            raise DataError(missing_message(known.name))
        raise DataError("no data given; set data.root=FOLDER, or try data.dataset=phantom2d, which is generated")
    root = Path(os.path.expanduser(section.root))
    if not root.exists():
        # Most often it is a slip of one name: look for it among its siblings.
        beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        hint = missing_message(known.name) if known is not None else "give the folder that holds the images"
        raise DataError(f"data.root={section.root}: no such folder{nearest(root.name, beside)}; {hint}")
    return root


def _recognise(root: Path, layout: str) -> Found:
    found = None
    for find, _ in LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]:
        if (found := find(root)) is not None:
            break
    if found is None and layout != "auto":
        raise DataError(
            f"{root}: not laid out as data.layout={layout}, which needs {LAYOUTS[layout][1]}; or use layout=auto"
        )
    if found is None:
        raise DataError(
            f"{root}: zero cases, as no layout is recognised; accepted are {paired.NEEDS}; a manifest.csv with columns "
            "id, image, label; nnU-Net's dataset.json with imagesTr; a decathlon datalist; Synapse files"
        )
    if not found.cases:
        raise DataError(f"{root}: zero cases; add images, or correct the {found.layout} file")
    return found


def _with_known_sides(cases: tuple[Case, ...], known: KnownDataset | None) -> tuple[Case, ...]:
    """A known data set has a published split, which holds where the folder states none."""
    if known is None or any(case.split or case.fold is not None for case in cases):
        return cases
    return tuple(replace(case, split=known.side(case.id)) for case in cases)


def _peek_all(cases: tuple[Case, ...]) -> dict[str, list[Peek]]:
    """Look at the headers of all images; what cannot be opened is left to `read_case` unless nothing can."""
    peeks: dict[str, list[Peek]] = {}
    fault: DataError | None = None
    for case in cases:
        try:
            # Label maps alone are a data set too, for `inspect`; their axes tell dims.
            paths = case.images or tuple(path for path in (case.label,) if path is not None)
            peeks[case.id] = [peek_volume(path) for path in paths]
        except DataError as error:
            fault = fault or error
    if fault is not None and not peeks:
        raise fault
    return peeks


def _kind(peeks: list[Peek]) -> tuple[int, int]:
    return peeks[0].dims, sum(peek.channels for peek in peeks)


def _usual(peeks: dict[str, list[Peek]]) -> tuple[int, int]:
    """Return axes and channels of most cases."""
    kinds = Counter(_kind(found) for found in peeks.values() if found)
    return kinds.most_common(1)[0][0] if kinds else (0, 0)


def _faults(cases: tuple[Case, ...], peeks: dict[str, list[Peek]]) -> tuple[str, ...]:
    faults = []
    bare = [case.id for case in cases if not case.images]
    if bare:
        faults.append(f"no image in {shown(bare)}: label maps alone cannot be trained on; add images")
    if all(case.label is None for case in cases):
        faults.append("no case has a label file; add labels, or use the images with `unetkit predict`")
    # The majority is taken for right, so that one stray file is named and not all the others.
    dims, channels = _usual(peeks)
    other_dims = [name for name, found in peeks.items() if _kind(found)[0] != dims]
    if other_dims:
        faults.append(f"images of 2 and of 3 axes: {shown(other_dims)} unlike the rest; make a data set of each")
    other = [name for name, found in peeks.items() if _kind(found)[1] != channels and name not in other_dims]
    if other:
        first = _kind(peeks[other[0]])[1]
        faults.append(
            f"channels differ: {channels} in most cases, {first} in {shown(other)}; give all cases the same channels"
        )
    return tuple(faults)


def _channel_names(section: DataSection, found: Found, number: int, dims: int) -> tuple[str, ...]:
    if section.channels is not None:
        if len(section.channels) != number:
            raise RecipeError(
                f"data.channels names {counted(len(section.channels), 'channel')}, the images have {number}; "
                "name each once"
            )
        return tuple(section.channels)
    if len(found.channels) == number:
        return found.channels
    if dims == 2 and number == 3:
        return ("red", "green", "blue")
    return ("image",) if number == 1 else tuple(f"channel_{index}" for index in range(number))
