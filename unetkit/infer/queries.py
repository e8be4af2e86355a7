"""Objects of 2D images from queries: a mask and a score each, in one window or joined over several.

In a window a query is an object if its score, the chance of its class times the mean chance of its mask within the
mask, is large enough (arXiv:2112.01527). Of masks that are nearly the same the one of the best score stays, and so does
the best where masks overlap; of which less than half is left thereby, is dropped. Objects of two windows are one if
their masks agree by an IoU above a half within what both windows see; it has the better score. An image that is no
larger than the patch is one window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional

from unetkit.data.instances import MOST, border_distance, with_numbers
from unetkit.errors import DataError, RecipeError
from unetkit.infer.forward import WindowSettings
from unetkit.infer.inputs import image_dims
from unetkit.infer.network import MeanNetwork
from unetkit.infer.sliding import Box, pad_to, positions
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import InferSection

_SAME = 0.5
"""IoU above which objects of two windows are one: no object agrees so much with two that do not overlap."""
_LEFT = 0.5
"""Share of an object that those of better scores have to leave of it."""


def has_queries(network: nn.Module, plan: Plan) -> bool:
    """Return whether a network finds the objects that a plan's labels number by queries.

    Raises RecipeError for several such networks, and for slices of volumes.
    """
    several = isinstance(network, MeanNetwork)
    first = network.members[0] if isinstance(network, MeanNetwork) else network
    info = getattr(first, "info", None)
    if not plan.labels.instances or info is None or info.learns != "queries":
        return False
    if several:
        raise RecipeError(f"{info.name}: the queries of several networks have no mean; give one run")
    check_flat(plan, info.name)
    return True


def check_flat(plan: Plan, model: str) -> None:
    """Raise RecipeError for a plan whose images are volumes that a 2D network sees slice by slice."""
    if image_dims(plan) != plan.dims:
        raise RecipeError(
            f"{model}: queries find the objects of 2D images, and these are volumes, whose slices would each have "
            "their own; choose another model"
        )


@dataclass(frozen=True, eq=False)
class Found:
    """An object: its score from 0 to 1, the part of the image [H, W] where it lies, and its mask there, bool."""

    score: float
    box: Box
    mask: np.ndarray

    def within(self, box: Box) -> np.ndarray:
        """Return the mask in another part of the image, bool."""
        part = np.zeros([side.stop - side.start for side in box], bool)
        common = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.box, box, strict=True)]
        if all(start < stop for start, stop in common):
            here, there = (
                tuple(slice(start - o.start, stop - o.start) for (start, stop), o in zip(common, other, strict=True))
                for other in (box, self.box)
            )
            part[here] = self.mask[there]
        return part


@torch.no_grad()
def find_objects(
    network: nn.Module, image: Tensor, patch_size: Sequence[int], settings: InferSection, windows: WindowSettings
) -> list[Found]:
    """Return the objects of a prepared image [C, H, W], those of better scores first."""
    padded, inner = pad_to(image, patch_size)
    grid = [positions(n, p, windows.overlap) for n, p in zip(padded.shape[1:], patch_size, strict=True)]
    boxes = [tuple(slice(s, s + p) for s, p in zip(start, patch_size, strict=True)) for start in product(*grid)]
    device = next(network.parameters()).device
    groups = []
    for box in boxes:
        window = padded[(slice(None), *box)][None].to(device)
        with nullcontext() if windows.dtype is torch.float32 else torch.autocast(device.type, windows.dtype):
            found = network.queries(window)[-1]  # type: ignore[operator]
        classes, masks = found.classes[0].float(), found.masks[0].float()
        groups.append(list(_of_window(classes, masks, box, settings)))
    joined = joined_windows(groups, boxes)
    shift = [side.start for side in inner]
    outside = [tuple(slice(s.start - o, s.stop - o) for s, o in zip(one.box, shift, strict=True)) for one in joined]
    return [replace(one, box=box) for one, box in zip(joined, outside, strict=True)]


def _of_window(classes: Tensor, masks: Tensor, box: Box, settings: InferSection) -> Iterator[Found]:
    """Yield the objects of a window from class logits [Q, C + 1] and mask logits [Q, h, w], no two of which overlap."""
    chances = classes.softmax(-1)[:, :-1].amax(-1)
    likely = chances > settings.query_score  # the score is lower still
    size = [side.stop - side.start for side in box]
    if not likely.any():
        return
    inside = functional.interpolate(masks[likely][None], size=size, mode="bilinear")[0].sigmoid()
    solid = inside > settings.foreground_threshold
    mean = (inside * solid).flatten(1).sum(1) / solid.flatten(1).sum(1).clamp(min=1)
    scores, hard = (chances[likely] * mean).cpu().numpy(), solid.cpu().numpy()
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > settings.query_score and hard[i].any()]
    distinct = [order[i] for i in suppressed(hard[order], settings.query_nms)]
    free = np.ones(size, bool)
    for i in distinct:
        left = hard[i] & free
        if left.sum() >= _LEFT * hard[i].sum():
            free &= ~left
            yield Found(float(scores[i]), box, left)


def suppressed(masks: np.ndarray, threshold: float) -> list[int]:
    """Return the indices of masks bool [N, H, W], best first, of an IoU of at most a threshold with those kept."""
    iou = _iou(masks, masks)
    kept: list[int] = []
    for i in range(len(masks)):
        if not (iou[i, kept] > threshold).any():
            kept.append(i)
    return kept


def joined_windows(groups: Sequence[Sequence[Found]], boxes: Sequence[Box]) -> list[Found]:
    """Return the objects of overlapping windows as objects of the image, those of better scores first."""
    every = [one for group in groups for one in group]
    starts = np.cumsum([0, *map(len, groups)])
    root = list(range(len(every)))

    def find(number: int) -> int:
        while root[number] != number:
            number = root[number]
        return number

    for i, j in combinations(range(len(groups)), 2):
        shared = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(boxes[i], boxes[j], strict=True)
        )
        if groups[i] and groups[j] and all(side.start < side.stop for side in shared):
            here, there = (np.stack([found.within(shared) for found in groups[k]]) for k in (i, j))
            for row, column in np.argwhere(_iou(here, there) > _SAME):
                root[find(int(starts[j] + column))] = find(int(starts[i] + row))
    members: dict[int, list[Found]] = {}
    for number, one in enumerate(every):
        members.setdefault(find(number), []).append(one)
    return sorted(map(_union, members.values()), key=lambda one: -one.score)


def _iou(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the IoU [N, M] of masks bool [N, ...] and [M, ...], 0 where both are empty."""
    flat, other = (masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32) for masks in (one, two))
    shared = flat @ other.T
    ratio: np.ndarray = shared / np.maximum(flat.sum(1)[:, None] + other.sum(1)[None] - shared, 1)
    return ratio


def _union(parts: Sequence[Found]) -> Found:
    if len(parts) == 1:
        return parts[0]
    sides = zip(*(one.box for one in parts), strict=True)
    box = tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)
    return Found(max(one.score for one in parts), box, np.any([one.within(box) for one in parts], axis=0))


def numbered(objects: Sequence[Found], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers from 1 on of objects, best first, [*shape], and their scores; best goes over worse.

    Objects of which the better ones leave less than half are dropped.
    """
    numbers, scores = np.zeros(shape, np.int32), []
    whole = tuple(slice(0, n) for n in shape)
    for one in objects:
        common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one.box, whole, strict=True))
        mask, under = one.within(common), numbers[common]
        left = mask & (under == 0)
        if left.any() and left.sum() >= _LEFT * mask.sum():
            scores.append(one.score)
            under[left] = len(scores)
    return numbers, np.asarray(scores, np.float32)


def cleaned(
    numbers: np.ndarray, inside: np.ndarray, scores: np.ndarray, smallest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers without gaps, and their scores, of what lies in a foreground [*S] and has enough voxels.

    What the foreground has beyond the objects goes to the nearest one.
    """
    if numbers.any() and (inside & (numbers == 0)).any():
        nearest = distance_transform_edt(numbers == 0, return_distances=False, return_indices=True)
        numbers = numbers[tuple(nearest)]
    numbers = np.where(inside, numbers, 0)
    sizes = np.bincount(numbers.ravel(), minlength=len(scores) + 1)
    kept = sizes >= max(smallest, 1)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0)[numbers], scores[kept[1:]]


def encoded_objects(numbers: np.ndarray, spacing: Sequence[float], where: str) -> np.ndarray:
    """Return numbers of objects as encoded label uint8 [4, *S]. Raises DataError for too many, naming the case."""
    if numbers.max() > MOST:
        raise DataError(f"{where}: {numbers.max()} objects, {MOST} can be numbered; raise infer.query_score")
    return with_numbers(numbers, border_distance(numbers, spacing))
