"""What label files show by themselves: classes, grey masks, instance numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unetkit.data.declared import Declared
from unetkit.data.formats.files import suffix_of
from unetkit.data.labels import MAX_CLASSES, count_values
from unetkit.data.volumes import read_volume
from unetkit.errors import DataError
from unetkit.types import Labels

# JPEG masks such as those of Kvasir-SEG hold 60 to 70 values, greys along the edges of black and white.
_GREY_THRESHOLD = 127.0
_GREY_VALUES = 16
_GREY_MARGIN = 40
_GREY_MIDDLE = 0.15
_MANY_VALUES = 12
_SAMPLE = 16
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class FileFacts:
    """What one label file holds: value -> voxels (empty if there are fractions), largest value, axes, lossy or not."""

    counts: Mapping[int, int]
    largest: float
    dims: int
    fractions: bool = False
    lossy: bool = False

    @property
    def foreground(self) -> list[int]:
        """Values other than 0, ascending."""
        return [value for value in self.counts if value]

    @property
    def looks_grey(self) -> bool:
        """Many 8-bit values of a picture, but few pixels between the dark and the bright end: edges of a 0/255 mask."""
        # JPEG cannot keep 0/255 exactly; a third value is ringing, not a class.
        if self.lossy:
            return len(self.counts) > 2
        if self.dims != 2 or len(self.counts) < _GREY_VALUES or not 200 <= self.largest <= 255:
            return False
        middle = sum(n for value, n in self.counts.items() if _GREY_MARGIN < value < 255 - _GREY_MARGIN)
        return middle <= _GREY_MIDDLE * sum(self.counts.values())


def scan_labels(paths: Sequence[Path], declared: Declared, threads: int = 4) -> tuple[Labels | None, list[str]]:
    """Look into label files and return labels where the declaration is missing or contradicted, with notes.

    With classes declared only a sample of pictures is opened, to notice grey masks. Files that cannot be read are
    left to `read_case`. Raises DataError if no file can be read at all, or nothing can be concluded.
    """
    if not paths:
        return None, []
    if declared.instances:
        return _foreground("the data set says that its label values number the objects")
    # Nothing stated: every file is opened, as a rare class may stand in one only.
    facts = _facts(_sample(paths) if declared.classes else paths, bool(declared.classes), threads)
    if declared.classes:
        return _check_declared(facts, declared)
    return _guess(facts)


def _check_declared(facts: Sequence[FileFacts], declared: Declared) -> tuple[Labels | None, list[str]]:
    if len(declared.classes) != 1:
        return None, []
    # A declaration {1: polyp} over files of 0..255 is common: the name is right, the values are not.
    unexpected = [fact for fact in facts if not set(fact.counts) <= {0, *declared.values}]
    grey = [fact for fact in unexpected if fact.looks_grey]
    if not grey:
        return None, []
    return _grey(next(iter(declared.classes)), grey)


def _guess(facts: Sequence[FileFacts]) -> tuple[Labels | None, list[str]]:
    if any(fact.fractions for fact in facts):
        largest = max(fact.largest for fact in facts)
        # Probabilities end at 1, percentages at 100, scaled masks at anything: half of the largest serves all.
        threshold = largest / 2
        note = f"label files hold fractions up to {largest:.4g}: taken as one class 'foreground' above {threshold:.4g}"
        return Labels(("foreground",), ((1,),), threshold=threshold), [f"{note}; data.threshold sets another"]
    grey = [fact for fact in facts if fact.looks_grey]
    if grey:
        return _grey("foreground", grey)
    values = sorted({value for fact in facts for value in fact.foreground})
    if not values:
        raise DataError("the label files hold nothing but 0; there is no class to learn: check the folder of labels")
    if _looks_numbered(facts):
        most = max(len(fact.foreground) for fact in facts)
        return _foreground(f"label values look like instance numbers (up to {most} in one file)")
    # Both 1 and 255 occur as `object` in one set where two tools wrote the masks.
    if all(len(fact.foreground) <= 1 for fact in facts) and set(values) <= {1, 255}:
        return Labels(("foreground",), (tuple(values),)), []
    return _plain(values)


def _plain(values: Sequence[int]) -> tuple[Labels, list[str]]:
    if len(values) > MAX_CLASSES:
        raise DataError(
            f"{len(values)} different label values ({values[0]} to {values[-1]}); at most {MAX_CLASSES} classes are "
            "possible: name the wanted ones in data.classes, or set data.threshold"
        )
    if len(values) == 1:
        return Labels(("foreground",), ((values[0],),)), [f"the only label value, {values[0]}, is taken as foreground"]
    shown = ", ".join(str(value) for value in values[:_MANY_VALUES]) + (", ..." if len(values) > _MANY_VALUES else "")
    note = f"nothing names the label values {shown}: one class each; name them in data.classes"
    return Labels(tuple(f"label_{value}" for value in values), tuple((value,) for value in values)), [note]


def _grey(name: str, grey: Sequence[FileFacts]) -> tuple[Labels, list[str]]:
    largest = max(fact.largest for fact in grey)
    threshold = _GREY_THRESHOLD if largest > _GREY_THRESHOLD else largest // 2
    most = max(len(fact.counts) for fact in grey)
    note = (
        f"label files are grey masks (up to {most} different values, as along edges of a JPEG): "
        f"one class '{name}' above {threshold:g}; data.threshold sets another"
    )
    return Labels((name,), ((1,),), threshold=threshold), [note]


def _foreground(reason: str) -> tuple[Labels, list[str]]:
    labels = Labels(("foreground",), ((1,),), threshold=0.0)
    return labels, [
        f"{reason}: all of them are one class 'foreground'; data.instances=true tells the objects apart, data.classes "
        "names values that are classes"
    ]


def _looks_numbered(facts: Sequence[FileFacts]) -> bool:
    """Instance numbers run from 1 with few gaps, to an end that differs from file to file; or there are hundreds."""
    counted = [fact for fact in facts if fact.foreground]
    largest = [fact.foreground[-1] for fact in counted]
    if max(largest) <= _MANY_VALUES or min(fact.foreground[0] for fact in counted) < 0:
        return False
    if max(largest) > MAX_CLASSES and max(len(fact.foreground) for fact in counted) > MAX_CLASSES // 2:
        return True
    # Some instances are lost at borders or by editing, so a few numbers may be missing.
    dense = all(len(fact.foreground) >= 0.8 * fact.foreground[-1] for fact in counted)
    varied = len(counted) > 1 and max(largest) >= 1.5 * min(largest)
    return dense and (varied or (len(counted) == 1 and max(largest) > 2 * _MANY_VALUES))


def _facts(paths: Sequence[Path], pictures_only: bool, threads: int) -> list[FileFacts]:
    if pictures_only:
        paths = [path for path in paths if suffix_of(path) in (".png", ".bmp", ".tif", ".tiff", ".gif", *_LOSSY)]
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(_fact_or_fault, paths))
    facts = [result for result in results if isinstance(result, FileFacts)]
    faults = [result for result in results if isinstance(result, DataError)]
    if faults and not facts:
        raise faults[0]
    return facts


def _fact_or_fault(path: Path) -> FileFacts | DataError:
    try:
        return file_facts(path)
    except DataError as error:
        return error


def file_facts(path: Path) -> FileFacts:
    """Open one label file and count its values. Raises DataError if it cannot be read."""
    volume = read_volume(path, label=True)
    data, dims = volume.data, volume.dims
    lossy = suffix_of(path) in _LOSSY
    if data.dtype.kind == "f":
        finite = data[np.isfinite(data)]
        return FileFacts({}, float(finite.max(initial=0)), dims, fractions=True, lossy=lossy)
    counts = count_values(data)
    return FileFacts(counts, float(max(counts)), dims, lossy=lossy)


def _sample(paths: Sequence[Path]) -> list[Path]:
    step = max(1, len(paths) // _SAMPLE)
    return list(paths)[::step]
