"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetkit.data.formats.files import stem_of

_MASK_WORDS = (
    r"masks?|segmentations?|segs?|gts?|labels?|lbl|manual\d*|annotations?|anno|ground_?truth|1st_?ho|"
    r"seg[-_]manual|lesion"
)
_IMAGE_WORDS = r"images?|imgs?|im|training|test|orig|original"
_ENDING = re.compile(rf"[-_. ]+({_MASK_WORDS}|{_IMAGE_WORDS})$", re.IGNORECASE)
_BEGINNING = re.compile(rf"^({_MASK_WORDS}|{_IMAGE_WORDS})(?:[-_. ]+|(?=\d))", re.IGNORECASE)
_MASK_ENDING = re.compile(rf"[-_. ]+({_MASK_WORDS})$", re.IGNORECASE)
_MASK_BEGINNING = re.compile(rf"^({_MASK_WORDS})(?:[-_. ]+|(?=\d))", re.IGNORECASE)
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Pairing:
    """`images`: case id -> its channels; `labels`: case id -> its mask; `lonely`: masks without an image."""

    images: dict[str, tuple[Path, ...]]
    labels: dict[str, Path]
    lonely: list[Path]


def pair_up(images: Sequence[Path], labels: Sequence[Path]) -> Pairing:
    """Match by the same stem, else by what is left without words such as `_mask`, else by the first number.

    A rule is used for what the rules before left over, and only where it points to one image and one mask.
    """
    groups = _channels(images, labels)
    free_ids = list(groups)
    free = list(labels)
    matched: dict[str, Path] = {}
    # From the strictest rule to the loosest, so that a loose one cannot take what a strict one would pair.
    for key in (_same, core_of, _number):
        found = _unambiguous(free_ids, free, key)
        matched |= found
        free_ids = [name for name in free_ids if name not in found]
        free = [path for path in free if path not in found.values()]
    return Pairing(groups, {name: matched[name] for name in groups if name in matched}, free)


def core_of(stem: str) -> str:
    """Return a stem without the words that tell image from mask: label_13 and image_13 both give 13."""
    previous = None
    # Words stack up: image_x_training_seg.
    while stem != previous:
        previous = stem
        stem = _BEGINNING.sub("", _ENDING.sub("", stem)) or stem
    return stem.lower()


def is_mask_name(stem: str) -> bool:
    """Tell whether a file that lies among images is named as a mask."""
    return bool(_MASK_ENDING.search(stem) or _MASK_BEGINNING.match(stem))


def _channels(images: Sequence[Path], labels: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Group x_0000, x_0001 to case x where masks are called x; elsewhere each file is a case."""
    # _0000 means a channel only where masks go without it; elsewhere it is a frame number.
    names = {stem_of(path).lower() for path in labels} | {core_of(stem_of(path)) for path in labels}
    parts = [_CHANNEL.match(stem_of(path)) for path in images]
    grouped: dict[str, list[Path]] = {}
    for path, part in zip(images, parts, strict=True):
        if part is not None and part["case"].lower() in names and stem_of(path).lower() not in names:
            grouped.setdefault(part["case"], []).append(path)
        else:
            grouped.setdefault(stem_of(path), []).append(path)
    return {name: tuple(paths) for name, paths in grouped.items()}


def _unambiguous(ids: Sequence[str], paths: Sequence[Path], key: Callable[[str], str]) -> dict[str, Path]:
    left = Counter(key(name) for name in ids)
    right = Counter(key(stem_of(path)) for path in paths)
    by_key = {key(stem_of(path)): path for path in paths}
    # A key held by two images or two masks pairs nothing: better no label than a wrong one.
    return {name: by_key[key(name)] for name in ids if key(name) and left[key(name)] == right[key(name)] == 1}


def _same(stem: str) -> str:
    return stem.lower()


def _number(stem: str) -> str:
    """The first number without leading zeros, or nothing."""
    found = re.search(r"\d+", stem)
    return str(int(found[0])) if found else ""
