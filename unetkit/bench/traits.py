"""What a data set is like, as far as it may decide which network suits it: a few numbers, from some of its cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.bench.boundary import Edge, Shape, measure_edge, measure_shape
from unetkit.bench.folder import BenchFolder
from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset, open_dataset, require_trainable
from unetkit.data.formats.files import replacing
from unetkit.errors import CheckpointError, DataError
from unetkit.types import IGNORE, Case, Labels, Volume, instance_numbers

TRAITS = "traits.json"
FORMAT = 1
"""Version of traits.json; it counts up where a trait is measured in another way."""
CASES = 32
"""Cases that are read, spread evenly over all labelled ones in the order of their names."""

_MODALITIES = (
    ("CT", r"\bct\b|computed tomography"),
    ("MR", r"\bmri?\b|\bt[12]\w*|flair|\badc\b|\bdwi\b|\bssfp\b|magnetic"),
    ("PET", r"\bpet\b"),
    ("X-ray", r"x-?ray|radiogra"),
    ("ultrasound", r"\bus\b|ultraso|echo"),
    ("OCT", r"\boct\b|optical coherence"),
    ("microscopy", r"microscop|fluoresc|histo|\b\w*tem\b|\bem\b"),
    ("colour", r"^(red|green|blue|rgb)$|endoscop|dermoscop|fundus|colou?r"),
)
_ABOVE_0 = ("cases", "voxels", "classes", "winding")
_SAYS_NOTHING = r"image|channel_\d+|gr[ae]y"


@dataclass(frozen=True)
class Traits:
    """Traits of a data set; those of classes are means over the cases that show a class, then over classes.

    `modality` as the channels' names say; `dims`, `channels`, `classes` (of the foreground), `cases` (labelled) and
    `voxels` (median of a case) are its size, `sides` the median side lengths. `foreground` is a class's share of the
    image, `components` its pieces in a case; `contrast`, `sharpness` and `winding` as in `boundary`. `measured` cases
    were read for them, at their own resolution.
    """

    modality: str
    dims: int
    channels: int
    classes: int
    cases: int
    sides: tuple[int, ...]
    voxels: float
    foreground: float
    contrast: float
    sharpness: float
    winding: float
    components: float
    measured: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values, of four digits at most."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Traits:
        """Rebuild traits. Raises DataError if a value is missing or of another kind."""
        try:
            values = {field.name: tree[field.name] for field in fields(cls)}
            for name, value in values.items():
                # those in _ABOVE_0 are compared by their logarithm
                if name not in ("modality", "sides") and not (value > 0 if name in _ABOVE_0 else value >= 0):
                    raise ValueError(f"{name}={value}")
            return cls(**{**values, "sides": tuple(int(n) for n in values["sides"])})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"these are no traits of a data set ({error}); measure them anew") from error

    def lines(self) -> list[tuple[str, str]]:
        """Return each trait with its value and unit in words."""
        sides, of_ball = " x ".join(map(str, self.sides)), ("perimeter of a disc", "surface of a ball")[self.dims - 2]
        return [
            ("modality", self.modality),
            ("size", f"{self.cases} cases of {sides} {'pixels' if self.dims == 2 else 'voxels'} (median)"),
            ("channels, classes", f"{self.channels}, {self.classes}"),
            ("foreground share", f"{100 * self.foreground:.3g} % of the image a class"),
            ("contrast", f"{self.contrast:.2f} (0: none at the boundary, 1: no noise)"),
            ("sharpness", f"{self.sharpness:.2f} of the contrast within one step across the boundary"),
            ("winding", f"{self.winding:.3g} times the {of_ball} of the same size"),
            ("components", f"{self.components:.3g} a class and case"),
        ]


@dataclass(frozen=True)
class _Seen:
    """What one case shows: by class its share, edge and shape."""

    shares: dict[str, float]
    edges: dict[str, Edge]
    shapes: dict[str, Shape]
    shape: tuple[int, ...]
    grey: bool


def measure_traits(dataset: Dataset, most: int = CASES, progress: Callable[[int, int], None] | None = None) -> Traits:
    """Read at most so many cases, one at a time, and return what the data set is like.

    Raises DataError if nothing is labelled, or a case cannot be used.
    """
    require_trainable(dataset)
    labels, chosen = dataset.labels, spread(dataset.labelled, most)
    if labels is None or not chosen:
        raise DataError(f"{dataset.name}: no labelled case, and traits are of labels; add labels")
    seen = []
    for number, case in enumerate(chosen, start=1):
        image, encoded = read_case(case, labels)
        assert encoded is not None
        seen.append(_look(image, encoded, labels))
        if progress is not None:
            progress(number, len(chosen))
    if not any(one.shares for one in seen):
        raise DataError(f"{dataset.name}: none of {len(seen)} cases has a labelled voxel; check data.classes")
    return _summed(dataset, labels, seen)


def bench_traits(folder: BenchFolder, progress: Callable[[int, int], None] | None = None) -> dict[str, Traits]:
    """Return the traits of a benchmark's data sets; what was measured before is read from traits.json.

    Raises DataError if a data set is not at hand and was never measured, or the file cannot be written.
    """
    sections = {job.dataset: job.recipe.data for job in reversed(folder.jobs)}
    known = _stored(folder.path / TRAITS)
    for number, (name, section) in enumerate(sorted(sections.items()), start=1):
        if name not in known:
            known[name] = measure_traits(open_dataset(section))
            with replacing(folder.path / TRAITS) as temporary:
                tree = {"format": FORMAT, "datasets": {name: traits.to_json() for name, traits in known.items()}}
                temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")
        if progress is not None:
            progress(number, len(sections))
    return {name: known[name] for name in sections}


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """Return at most so many cases, evenly spread over the order of their names."""
    ordered = sorted(cases, key=lambda case: case.id)
    if len(ordered) <= most:
        return ordered
    return [ordered[int(place)] for place in np.linspace(0, len(ordered) - 1, most)]


def modality_of(channels: Sequence[str], dims: int, grey: bool) -> str:
    """Return what kind of images these are by the names of their channels; `grey`: all channels hold the same."""
    named = " ".join(channels).lower()
    for modality, pattern in _MODALITIES:
        found = re.search(pattern, named) or any(re.search(pattern, name.lower()) for name in channels)
        if found and not (modality == "colour" and grey):
            return modality
    if grey and dims == 2:
        return "grey"
    return "unknown" if all(re.fullmatch(_SAYS_NOTHING, name.lower()) for name in channels) else named


def _look(image: Volume, encoded: Volume, labels: Labels) -> _Seen:
    shares, edges, shapes = {}, {}, {}
    for index, name in enumerate(labels.classes):
        layer = encoded.data[index if labels.regions else 0]
        mask, seen = layer == (1 if labels.regions else index + 1), layer != IGNORE
        if not mask.any():
            continue
        shares[name] = float(np.count_nonzero(mask) / np.count_nonzero(seen))
        shape = measure_shape(mask, image.spacing)
        objects = len(np.unique(instance_numbers(encoded.data)[mask])) if labels.instances else shape.components
        shapes[name] = Shape(objects, shape.winding)
        if (edge := measure_edge(image.data, mask, seen)) is not None:
            edges[name] = edge
    grey = all(np.array_equal(image.data[0], channel) for channel in image.data[1:])
    return _Seen(shares, edges, shapes, image.shape, grey)


def _summed(dataset: Dataset, labels: Labels, seen: Sequence[_Seen]) -> Traits:
    edges = [edge for one in seen for edge in one.edges.values()]
    # where there is next to no contrast, noise alone decides how much of it lies in one step
    clear = [(edge.sharpness, edge.contrast) for edge in edges if edge.sharpness is not None]
    weight = sum(contrast for _, contrast in clear)
    sides = tuple(int(n) for n in np.median([one.shape for one in seen], axis=0))
    return Traits(
        modality=modality_of(dataset.channels, dataset.dims, all(one.grey for one in seen)),
        dims=dataset.dims,
        channels=len(dataset.channels),
        classes=len(labels.classes),
        cases=len(dataset.labelled),
        sides=sides,
        voxels=float(np.median([np.prod(one.shape) for one in seen])),
        foreground=_mean([one.shares for one in seen]),
        contrast=_mean([{name: edge.contrast for name, edge in one.edges.items()} for one in seen]),
        sharpness=sum(sharpness * contrast for sharpness, contrast in clear) / weight if clear else 0.0,
        winding=_mean([{name: shape.winding for name, shape in one.shapes.items()} for one in seen]),
        components=_mean([{name: shape.components for name, shape in one.shapes.items()} for one in seen]),
        measured=len(seen),
    )


def _mean(cases: Sequence[Mapping[str, float]]) -> float:
    """Return the mean over classes of the mean over the cases that have a value of the class; 0 if none has."""
    names = {name for case in cases for name in case}
    return float(np.mean([np.mean([case[n] for case in cases if n in case]) for n in sorted(names)])) if names else 0.0


def _stored(path: Path) -> dict[str, Traits]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {n: Traits.from_json(t) for n, t in tree["datasets"].items()} if tree["format"] == FORMAT else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it to measure anew") from error
