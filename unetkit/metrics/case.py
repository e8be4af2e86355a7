"""All metrics of one case, class by class, with a named rule for classes that are absent."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from scipy.ndimage import find_objects

from unetkit.errors import ShapeError
from unetkit.metrics.distance import HD95_METHODS, SURFACES, check_choice, surface_distances
from unetkit.metrics.instances import INSTANCE_METRICS, instance_scores
from unetkit.metrics.overlap import check_spacing, dice, iou, precision, recall, volume_difference
from unetkit.types import IGNORE, Labels, instance_numbers

OVERLAPS = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "volume_difference": volume_difference,
}
DISTANCES = ("hd95", "assd", "nsd")
COUNTS = ("predicted_voxels", "reference_voxels")
METRICS = (*OVERLAPS, *DISTANCES, *INSTANCE_METRICS)
EMPTY_RULES = ("skip", "one", "worst", "zero", "synapse")

# What agreement without a voxel is worth: ratios 1, differences and distances 0.
PERFECT = {**dict.fromkeys(METRICS, 1.0), "volume_difference": 0.0, "hd95": 0.0, "assd": 0.0}

Scores = dict[str, dict[str, float]]
"""Class name to metric name to value."""

Box = tuple[slice, ...]


class Rules(Protocol):
    """What the metrics mean; a recipe's `evaluate` section is one of these."""

    @property
    def empty(self) -> str:
        """What a class counts that a mask lacks.

        "skip" leaves every metric of a class undefined that the reference lacks; "one" counts a class absent from
        both masks as perfect; "worst" as "one", and what else is undefined becomes the worst value (distances: the
        image's diagonal; the volume difference has none); "zero" makes every undefined ratio 0, of a class absent from
        both masks too, as U-Bench does; "synapse" gives Dice 1 if only the reference is empty and
        Dice 0 if the prediction is, with HD95 0 and no other metric. Distances to an empty mask stay undefined under
        "skip", "one" and "zero".
        """

    @property
    def surface(self) -> str:
        """Surface definition, "voxel" or "element"."""

    @property
    def hd95(self) -> str:
        """How both directions are joined, "max" or "pooled"."""

    @property
    def tolerance_mm(self) -> float:
        """Tolerance of the surface Dice."""

    @property
    def spacing(self) -> str:
        """Distances by the spacing of the "file", or in voxels ("unit")."""

    @property
    def distances(self) -> bool:
        """Whether distances are measured at all."""


def evaluate_case(
    pred: np.ndarray,
    ref: np.ndarray,
    labels: Labels,
    spacing: Sequence[float],
    rules: Rules,
    *,
    workers: int | None = None,
) -> Scores:
    """Compare two encoded label maps [L, *S], uint8, class by class.

    L is 1 with class indices, one 0/1 map per region, or 4 for instances; voxels that are IGNORE in either map are
    background in both. `spacing` is in mm per axis of S. Returns for each class name the METRICS that are asked for,
    those of `metrics/instances` for instances only, and the voxel counts of both masks. Classes are measured in
    `workers` threads, by default one per processor core.
    Raises ShapeError for maps that do not fit each other or the labels and for a spacing that does not fit the maps,
    RecipeError for an unknown rule.
    """
    for what, given, allowed in (
        ("empty", rules.empty, EMPTY_RULES),
        ("surface", rules.surface, SURFACES),
        ("hd95", rules.hd95, HD95_METHODS),
        ("spacing", rules.spacing, ("file", "unit")),
    ):
        check_choice(f"evaluate.{what}", given, allowed)
    _check_maps(pred, ref, labels)
    check_spacing(spacing, pred.ndim - 1)
    pred, ref = _without_ignored(pred, ref)
    scale = tuple(float(s) for s in spacing) if rules.spacing == "file" else (1.0,) * (pred.ndim - 1)
    boxes = _class_boxes(pred, ref, labels)
    objects = instance_scores(instance_numbers(pred), instance_numbers(ref)) if labels.instances else {}

    def measure(index: int) -> dict[str, float]:
        channel, value = (index, 1) if labels.regions else (0, index + 1)
        box = boxes[index]
        masks = pred[channel][box] == value, ref[channel][box] == value
        return _measure(*masks, scale, rules, pred.shape[1:], objects)

    # Threads are enough: counting in numpy and the queries of the tree let go of the interpreter lock.
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return dict(zip(labels.classes, pool.map(measure, range(len(labels.classes))), strict=True))


def _check_maps(pred: np.ndarray, ref: np.ndarray, labels: Labels) -> None:
    channels = labels.layers
    for name, array in (("prediction", pred), ("reference", ref)):
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[0] != channels:
            raise ShapeError(
                f"{name}: {array.dtype} of shape {array.shape}; encoded labels are uint8 [{channels}, *S] here, "
                "with 2 or 3 axes in S"
            )
    if pred.shape != ref.shape:
        raise ShapeError(f"prediction {pred.shape[1:]} and reference {ref.shape[1:]} differ in shape; give one grid")


def _without_ignored(pred: np.ndarray, ref: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Background, not cut out: a hole in both masks adds the same border to both, and distances stay on the grid.
    ignored = (pred == IGNORE) | (ref == IGNORE)
    if not ignored.any():
        return pred, ref
    return np.where(ignored, np.uint8(0), pred), np.where(ignored, np.uint8(0), ref)


def _class_boxes(pred: np.ndarray, ref: np.ndarray, labels: Labels) -> list[Box]:
    """Return the box of each class in either map: one pass over each map, whatever the number of classes."""
    found: list[list[Box | None]] = []
    for encoded in (pred, ref):
        if labels.regions:
            found.append([find_objects(region, 1)[0] for region in encoded])
        else:
            found.append(find_objects(encoded[0], len(labels.classes)))
    return [_union(one, two, pred.ndim - 1) for one, two in zip(*found, strict=True)]


def _union(one: Box | None, two: Box | None, dims: int) -> Box:
    if one is None or two is None:
        return one or two or (slice(0, 0),) * dims
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, two, strict=True))


def _measure(
    pred: np.ndarray,
    ref: np.ndarray,
    spacing: tuple[float, ...],
    rules: Rules,
    shape: tuple[int, ...],
    objects: dict[str, float],
) -> dict[str, float]:
    """Measure one class on its crop; `shape` is that of the whole image, `objects` are scores of its instances."""
    scores = {name: metric(pred, ref) for name, metric in OVERLAPS.items()} | objects
    if rules.distances:
        measured = surface_distances(pred, ref, spacing, surface=rules.surface)
        scores["hd95"] = measured.hd95(rules.hd95)
        scores["assd"] = measured.assd()
        scores["nsd"] = measured.surface_dice(rules.tolerance_mm)
    # Voxels stand beside the ratios, so that 0.5 of three voxels is not read like 0.5 of a liver.
    counts = [int(np.count_nonzero(mask)) for mask in (pred, ref)]
    if not all(counts):
        diagonal = math.hypot(*(n * s for n, s in zip(shape, spacing, strict=True)))
        scores = _with_rule(scores, counts[0] == 0, counts[1] == 0, rules.empty, diagonal)
    return {**scores, **dict(zip(COUNTS, map(float, counts), strict=True))}


def _with_rule(
    scores: dict[str, float], pred_empty: bool, ref_empty: bool, rule: str, diagonal: float
) -> dict[str, float]:
    """Replace what is not finite where a mask is empty, see `Rules`."""
    # TransUNet's test code: (Dice, HD95) = (1, 0) if pred.sum() > 0 and ref.sum() == 0, else (0, 0).
    if rule == "synapse":
        published = {"dice": 0.0 if pred_empty else 1.0, "hd95": 0.0}
        return {name: published.get(name, math.nan) for name in scores}
    if rule == "skip" and ref_empty:
        return dict.fromkeys(scores, math.nan)
    if rule == "zero":
        ratios = {*OVERLAPS, "nsd"} - {"volume_difference"}
        return {n: v if math.isfinite(v) else 0.0 if n in ratios else math.nan for n, v in scores.items()}
    if pred_empty and ref_empty:
        return {name: PERFECT[name] for name in scores}
    # volume_difference is not bounded, so it has no worst value and stays undefined.
    worst = {"precision": 0.0, "recall": 0.0, "hd95": diagonal, "assd": diagonal} if rule == "worst" else {}
    return {name: value if math.isfinite(value) else worst.get(name, math.nan) for name, value in scores.items()}


def describe(rules: Rules, *, unit: str = "mm", instances: bool = False) -> dict[str, str]:
    """Return one sentence for every metric and for the rules, as it has to stand beside the numbers.

    `unit` is what the images' spacing is in; `unit` of the result is what the distances are in. `instances` adds the
    metrics of objects.
    """
    unit = unit if rules.spacing == "file" else "voxels"
    surface = "border voxels" if rules.surface == "voxel" else "marching-cubes area elements"
    ninety_five = (
        "the larger of the two directed 95th percentiles"
        if rules.hd95 == "max"
        else "the 95th percentile of the distances of both directions together"
    )
    said = {
        "dice": "Dice coefficient, 2|P and R| / (|P| + |R|), P prediction, R reference",
        "iou": "intersection over union, |P and R| / |P or R|",
        "precision": "share of the prediction that is right, |P and R| / |P|",
        "recall": "share of the reference that is found, |P and R| / |R|",
        "volume_difference": "relative volume difference, (|P| - |R|) / |R|; the mean may hide opposite signs",
    }
    if rules.distances:
        said |= {
            "hd95": f"Hausdorff distance, {ninety_five}, between {surface}",
            "assd": f"average symmetric surface distance, the mean over {surface} of both masks together",
            "nsd": f"surface Dice: share of {surface} at most {rules.tolerance_mm:g} {unit} from the other surface",
            "unit": unit,
        }
    return said | (INSTANCE_METRICS if instances else {}) | {"empty": EMPTY_SENTENCES[rules.empty]}


EMPTY_SENTENCES = {
    "skip": "a class that the reference lacks is left out; distances to an empty prediction are undefined",
    "one": "a class absent from both masks counts as perfect; distances to an empty mask are undefined",
    "worst": "a class absent from both masks counts as perfect; "
    "distances to an empty mask are the image's diagonal, other undefined ratios 0",
    "zero": "a class absent from both masks counts 0, as any undefined ratio (U-Bench's rule, by which the best that a "
    "network can do is scored as a failure); distances to an empty mask are undefined",
    "synapse": "as the published Synapse code: predicted but not in the reference gives Dice 1, HD95 0; "
    "not predicted gives Dice 0, HD95 0 (this rewards false positives in absent organs)",
}
