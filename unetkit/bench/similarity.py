"""How alike two data sets are by their traits, on scales that are fixed, so that no evidence changes them."""

from __future__ import annotations

from collections.abc import Callable
from math import log2, sqrt

import numpy as np

from unetkit.bench.traits import Traits

SCALES: dict[str, tuple[Callable[[Traits], float], str]] = {
    "foreground": (lambda t: log2(max(t.foreground, 1e-6)) / 2, "fourfold share of the image"),
    "contrast": (lambda t: t.contrast / 0.25, "0.25"),
    "sharpness": (lambda t: t.sharpness / 0.15, "0.15"),
    "winding": (lambda t: log2(t.winding), "twofold surface"),
    "components": (lambda t: log2(max(t.components, 1.0)) / 2, "fourfold number"),
    "cases": (lambda t: log2(t.cases) / 2, "fourfold number"),
    "voxels": (lambda t: log2(t.voxels) / 3, "eightfold number"),
    "classes": (lambda t: log2(t.classes) / 2, "fourfold number"),
}
"""Trait -> its value in steps, and what one step is. Another modality, or volumes beside pictures, is a step too."""


def distance(first: Traits, second: Traits) -> float:
    """Return the root mean square of the steps that lie between two data sets over all traits; 0 for the same."""
    steps = [value(first) - value(second) for value, _ in SCALES.values()]
    steps += [float(first.modality != second.modality), float(first.dims != second.dims)]
    return sqrt(sum(step**2 for step in steps) / len(steps))


def weigh(distances: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return a weight for each data set, of sum 1, by a Gaussian of its distance; inf weighs all alike."""
    # the nearest counts in full, so that far from all of them the nearest still do most
    excess = (distances**2 - distances.min() ** 2) / (2 * bandwidth**2)
    weights: np.ndarray = np.exp(-excess)
    return weights / weights.sum()
