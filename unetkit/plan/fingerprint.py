"""What a data set measures: the only thing besides the recipe that a plan is decided from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.datasets import Dataset, require_trainable
from unetkit.errors import DataError
from unetkit.plan.histogram import EMPTY, Histogram, added
from unetkit.plan.odd_cases import OddCase, find_notes, find_odd
from unetkit.plan.part import CaseFacts, Part, measure_case
from unetkit.plan.part_cache import VERSION, PartCache, facts_from_json, part_key
from unetkit.progress import Progress
from unetkit.types import Case, Labels

_QUANTILES = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
_BARS = 100
_DRAWN = (0.0005, 0.9995)
"""Shares of the weight between which bars are drawn: single hot voxels would leave all others one bar."""
_EXPLAINED = 20
_MOST_THREADS = 8


@dataclass(frozen=True)
class Intensity:
    """Foreground intensities of one channel, each case weighing the same: percentiles 0.5 and 99.5, and moments.

    `minimum` and `maximum` are of all foreground, `quantiles` percent -> value; `edges` and `shares` are bars for a
    drawing (one edge more than shares). A fingerprint made by hand may lack these.
    """

    low: float
    high: float
    mean: float
    std: float
    median: float
    minimum: float | None = None
    maximum: float | None = None
    quantiles: Mapping[str, float] | None = None
    edges: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases measure; sizes and spacings per case, volumes in the order of the RAS axes.

    `shapes` are in voxels, `cropped` the same after cutting the zero border, `spacings` in mm. `placed`: the files say
    how their axes lie in the body. `dtypes` counts cases by the type of their voxels; `voxels` counts labelled voxels
    by class. `facts` are further findings a case; `notes` and `odd` say what stands out.
    """

    dims: int
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    cropped: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    placed: bool
    intensities: tuple[Intensity, ...]
    dtypes: dict[str, int]
    voxels: dict[str, int]
    facts: tuple[CaseFacts, ...] = ()
    notes: tuple[str, ...] = ()
    odd: tuple[OddCase, ...] = ()

    @property
    def crop_ratio(self) -> float:
        """Median share of the voxels that is left after cutting the zero border."""
        return float(np.median([np.prod(c) / np.prod(s) for c, s in zip(self.cropped, self.shapes, strict=True)]))

    @property
    def size_unit(self) -> str:
        """Unit of `class_sizes`: mL of volumes; pictures say nothing of millimetres."""
        return "mL" if self.dims == 3 else "pixels"

    def class_sizes(self, index: int) -> list[float]:
        """Return the size of a class in each case, in `size_unit`; 0 where it is absent."""
        factors = [float(np.prod(s)) / 1000 if self.dims == 3 else 1.0 for s in self.spacings]
        return [facts.voxels[index] * factor for facts, factor in zip(self.facts, factors, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Fingerprint:
        """Rebuild a fingerprint from `to_json`. Raises DataError for one of another version, or that is none."""
        try:
            tree = dict(tree)
            if (version := tree.pop("version")) != VERSION:
                raise DataError(f"a fingerprint of version {version}, not {VERSION}; measure the data set anew")
            made: dict[str, Any] = {
                "labels": Labels(**{name: _frozen(value) for name, value in tree.pop("labels").items()}),
                "intensities": tuple(Intensity(**_frozen_values(one)) for one in tree.pop("intensities")),
                "facts": tuple(facts_from_json(one) for one in tree.pop("facts")),
                "odd": tuple(OddCase(**one) for one in tree.pop("odd")),
            }
            return cls(**made, **_frozen_values(tree))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"this is not a fingerprint of unetkit ({error}); measure the data set anew") from error


def _frozen_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in tree.items()}


def _frozen(value: Any) -> Any:
    # JSON has lists only; with tuples a fingerprint equals the one that was stored
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def measure(
    dataset: Dataset,
    case_ids: Iterable[str],
    threads: int | None = None,
    *,
    home: Path | None = None,
    progress: Progress | None = None,
) -> Fingerprint:
    """Read the named cases (those that train), each once, and return what they measure.

    What a case measures is kept below `home` (without one in unetkit's cache folder) and taken from there as long as
    its files are the same. `threads` cases are in memory at a time.

    Raises DataError, naming all cases that cannot be used with the reason, and if no voxel of any is labelled.
    """
    require_trainable(dataset)
    cases = [dataset.case(name) for name in case_ids]
    if not cases or dataset.labels is None:
        raise DataError(f"{dataset.name}: zero labelled training cases; add labels, or change data.split")
    cache = PartCache(home)
    measured = _Measured(dataset, dataset.labels, cases)
    for number, part in enumerate(_parts(dataset, dataset.labels, cases, cache, threads), start=1):
        measured.take(part)
        if progress is not None:
            progress(number, len(cases))
    cache.sweep()
    found = measured.fingerprint()
    notes = () if cache.fault is None else (f"measured cases could not be kept in {cache.fault}",)
    return replace(found, notes=(*find_notes(found), *notes), odd=find_odd(found))


def _parts(
    dataset: Dataset, labels: Labels, cases: Sequence[Case], cache: PartCache, threads: int | None
) -> Iterator[Part | DataError]:
    """Give what each case measures, or its fault, in the order of the cases."""
    channels = len(dataset.channels)

    def attempt(case: Case) -> Part | DataError:
        key = part_key(case, labels, channels)
        part = None if key is None else cache.find(key)
        try:
            if part is None:
                part = measure_case(case, labels, channels)
                if key is not None:
                    cache.keep(key, part)
        except DataError as error:
            text = str(error)
            return DataError(text if text.startswith(f"case {case.id}:") else f"case {case.id}: {text}")
        return part

    yield from _in_threads(attempt, cases, threads)


def _in_threads(
    attempt: Callable[[Case], Part | DataError], cases: Sequence[Case], threads: int | None
) -> Iterator[Part | DataError]:
    # Threads: unpacking, sorting and counting release the interpreter lock, and nothing has to be copied.
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        yield from pool.map(attempt, cases)
    finally:
        # after Ctrl-C the cases in hand are finished, and kept; those that wait are not begun
        pool.shutdown(cancel_futures=True)


class _Measured:
    """Adds up parts, each of which can be forgotten then."""

    def __init__(self, dataset: Dataset, labels: Labels, cases: Sequence[Case]) -> None:
        self.dataset, self.labels, self.cases = dataset, labels, cases
        self.parts: list[Part] = []
        self.faults: list[tuple[str, str]] = []
        self.histograms = [EMPTY for _ in dataset.channels]
        self.taken = 0

    def take(self, part: Part | DataError) -> None:
        """Add one case. Cases come in their order, so that rounding does not depend on who was ready first."""
        case = self.cases[self.taken]
        self.taken += 1
        if isinstance(part, DataError):
            self.faults.append((case.id, str(part)))
            return
        # Each case weighs 1: a whole liver counts no more than a small lesion (nnU-Net draws as many from each).
        for channel, one in enumerate(part.histograms):
            if one.moments.weight:
                self.histograms[channel] = added([self.histograms[channel], one.weighing(1.0)])
        self.parts.append(replace(part, histograms=()))

    def fingerprint(self) -> Fingerprint:
        """Return the whole. Raises DataError if cases have faults, or if nothing is labelled."""
        # All cases are read before anything is said: one complaint about all faults, not one fault a run.
        if self.faults:
            raise DataError(_complaint(self.dataset.name, self.faults, len(self.cases)))
        parts, labels = self.parts, self.labels
        voxels = [sum(part.facts.voxels[index] for part in parts) for index in range(len(labels.classes))]
        if not any(voxels):
            raise DataError(
                f"{self.dataset.name}: none of the {len(parts)} training cases has a labelled voxel; check "
                "data.classes against the values in the label files (`unetkit inspect`)"
            )
        return Fingerprint(
            dims=self.dataset.dims,
            channels=self.dataset.channels,
            labels=labels,
            cases=tuple(case.id for case in self.cases),
            shapes=tuple(part.shape for part in parts),
            cropped=tuple(part.cropped for part in parts),
            spacings=tuple(part.spacing for part in parts),
            placed=all(part.placed for part in parts),
            intensities=tuple(_intensity(one) for one in self.histograms),
            dtypes=dict(Counter(part.facts.dtype for part in parts)),
            voxels=dict(zip(labels.classes, voxels, strict=True)),
            facts=tuple(part.facts for part in parts),
        )


def _complaint(name: str, faults: Sequence[tuple[str, str]], number: int) -> str:
    text = "; ".join(why for _, why in faults[:_EXPLAINED])
    if rest := [case for case, _ in faults[_EXPLAINED:]]:
        text += f"; and {len(rest)} more, for reasons that `unetkit inspect` gives: {', '.join(rest)}"
    return f"{name}: {len(faults)} of {number} cases cannot be used: {text}"


def _intensity(found: Histogram) -> Intensity:
    values = dict(zip(_QUANTILES, found.quantiles(_QUANTILES), strict=True))
    low, high = found.quantiles(_DRAWN)
    edges, shares = found.bars(low, high, _BARS)
    return Intensity(
        low=values[0.005],
        high=values[0.995],
        mean=found.moments.mean,
        std=found.moments.std,
        median=values[0.5],
        minimum=found.moments.low,
        maximum=found.moments.high,
        quantiles={f"{100 * share:g}": value for share, value in values.items()},
        edges=edges,
        shares=shares,
    )
