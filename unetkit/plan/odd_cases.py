"""Cases and classes that stand out: what somebody who trains on the data would want to have been told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unetkit.plan.fingerprint import Fingerprint

_ROBUST_SIGMAS = 3.5
_FEWEST = 5
"""Of fewer cases nobody can say which one is odd."""
_FLOOR = 0.05
_MOST_ODD = 0.1
_SHOWN = 8


@dataclass(frozen=True)
class OddCase:
    """A case far from the others in one respect: "spacing", "size", "intensity", a class, "slices" or "foreground"."""

    case: str
    what: str
    why: str


def find_odd(found: Fingerprint) -> tuple[OddCase, ...]:
    """Return the cases that lie further than 3.5 robust standard deviations (1.4826 MAD) from the median.

    Sizes, spacings and volumes are compared by their logarithm, intensities by the mean of the foreground.
    """
    odd = [OddCase(case, "foreground", "no voxel of any class") for case in _empty(found)]
    flat = [case for case, shape in zip(found.cases, found.shapes, strict=True) if found.dims == 3 and min(shape) == 1]
    odd += [OddCase(case, "slices", "one slice only") for case in flat if len(flat) < len(found.cases)]
    far = _deviations(found)
    kinds = _kinds(far, len(found.cases))
    return (*odd, *(one for one in far if one.what not in kinds))


def _deviations(found: Fingerprint) -> list[OddCase]:
    odd: list[OddCase] = []
    if found.dims == 3:
        odd += _far(found.cases, "spacing", np.log(found.spacings).T, np.asarray(found.spacings), "mm")
    odd += _far(found.cases, "size", np.log(found.shapes).T, np.asarray(found.shapes), "voxels")
    for index, name in enumerate(found.channels):
        seen = [(c, f.foreground[index].mean) for c, f in zip(found.cases, found.facts, strict=True) if f.foreground]
        means = np.asarray([[value] for _, value in seen])
        # A twentieth of the deviation between voxels matters to nobody.
        floor = _FLOOR * max(found.intensities[index].std, 1e-6)
        odd += _far([case for case, _ in seen], f"intensity of {name}", means.T, means, "on average", floor)
    for index, name in enumerate(found.labels.classes):
        # small and large by what they measure in the body, which voxel counts of mixed spacings would hide
        sizes = [(c, ml) for c, ml in zip(found.cases, found.class_sizes(index), strict=True) if ml > 0]
        volumes = np.asarray([[size] for _, size in sizes])
        odd += _far([case for case, _ in sizes], name, np.log(volumes).T, volumes, found.size_unit)
    return odd


def _kinds(odd: Sequence[OddCase], number: int) -> dict[str, int]:
    """Return in what respects more than a tenth of the cases deviate, and how many do: that is no oddity any more."""
    counts = Counter(one.what for one in odd)
    return {what: n for what, n in counts.items() if n > max(2, _MOST_ODD * number)}


def find_notes(found: Fingerprint) -> tuple[str, ...]:
    """Return what is worth knowing of the set as a whole, a line each."""
    number, notes = len(found.cases), []
    for index, name in enumerate(found.labels.classes):
        holding = [c for c, facts in zip(found.cases, found.facts, strict=True) if facts.voxels[index]]
        if not holding:
            notes.append(f"class '{name}' is in none of the {number} cases: no network can learn it from them")
        elif len(holding) == 1 and number > 1:
            notes.append(f"class '{name}' is in one case only of {number}: {holding[0]}")
    if empty := _empty(found):
        notes.append(f"no foreground in {len(empty)} of {number} cases: {_named(empty)}")
    codes = Counter(facts.orientation for facts in found.facts if facts.orientation)
    if len(codes) > 1:
        said = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        notes.append(f"the files store their axes in different orders: {said}; all are turned alike")
    if len(found.dtypes) > 1:
        notes.append(f"voxels of several types: {', '.join(f'{n} {kind}' for kind, n in found.dtypes.items())}")
    notes += [
        f"{what}: {n} of {number} cases lie far from the median: several kinds of cases rather than a few odd ones"
        for what, n in _kinds(_deviations(found), number).items()
    ]
    unknown = [c for c, facts in zip(found.cases, found.facts, strict=True) if facts.components is None]
    if unknown:
        notes.append(f"label maps too scattered to count components in: {_named(unknown)}")
    return tuple(notes)


def _empty(found: Fingerprint) -> list[str]:
    return [case for case, facts in zip(found.cases, found.facts, strict=True) if not any(facts.voxels)]


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")


def _far(
    cases: Sequence[str], what: str, axes: np.ndarray, shown: np.ndarray, unit: str, floor: float = _FLOOR
) -> list[OddCase]:
    """Return the cases of which a value along any of the axes [A, N], shown [N, A], lies far from the median.

    Where most cases agree exactly, `floor` is the deviation, so that a rounding is not odd.
    """
    if len(cases) < _FEWEST:
        return []
    middle = np.median(axes, axis=1, keepdims=True)
    sigma = 1.4826 * np.median(np.abs(axes - middle), axis=1, keepdims=True)
    apart = (np.abs(axes - middle) / np.maximum(sigma, floor)).max(axis=0)
    usual = _times(np.median(shown, axis=0))
    return [
        OddCase(cases[n], what, f"{_times(shown[n])} {unit}, against a median of {usual}")
        for n in np.flatnonzero(apart > _ROBUST_SIGMAS).tolist()
    ]


def _times(values: np.ndarray) -> str:
    return " x ".join(f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" for value in values)
