"""From the recipe's loss section to one module: terms, their weights, deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetkit.data.instances import FULL
from unetkit.data.soft_labels import soft_values
from unetkit.engine.losses.boundary import Boundary
from unetkit.engine.losses.comparison import Comparison
from unetkit.engine.losses.objective import Objective
from unetkit.engine.losses.overlap import SoftDice, Tversky
from unetkit.engine.losses.pixelwise import CrossEntropy
from unetkit.engine.losses.queries import query_loss
from unetkit.engine.losses.signed import FocalL1, JaccardMetric
from unetkit.errors import RecipeError
from unetkit.recipe.training import LossSection
from unetkit.types import Labels

_DICE = {"batch_dice", "dice_background", "smooth"}
_L1 = {"l1_alpha", "l1_beta", "l1_positive", "targets"}
USED = {
    "dice_ce": {"dice_weight", "ce_weight", "dice_squared", "class_weights", *_DICE},
    "dice_bce": {"dice_weight", "ce_weight", "dice_squared", "class_weights", *_DICE},
    "dice": {"dice_squared", *_DICE},
    "ce": {"class_weights"},
    "focal": {"focal_gamma", "class_weights"},
    "tversky": {"tversky_alpha", "tversky_beta", *_DICE},
    "boundary": {"dice_weight", "ce_weight", "dice_squared", "class_weights", "boundary_weight", *_DICE},
    "distance": {"dice_weight", "ce_weight", "distance_weight", "dice_squared", "batch_dice", "smooth"},
    "focal_l1": _L1,
    "jaccard_metric": {"targets"},
    "focal_l1_jaccard": {"jaccard_weight", *_L1},
    "contours": {"point_error", "kld_weight"},
    "queries": {"ce_weight", "mask_weight", "mask_dice_weight", "no_object_weight", "points"},
}
"""The keys of the loss section that each loss reads."""


@dataclass(frozen=True)
class Term:
    """A module called with a Comparison, its weight, and whether the weight grows from 0 over the training."""

    module: nn.Module
    weight: float
    grows: bool = False


class SegmentationLoss(Objective):
    """Weighted sum of terms, over all resolutions of a deeply supervised output.

    Called with logits [B, K, *S], or a tuple of them, finest first, and labels uint8 [B, L, *S]. Resolution i
    weighs 2^-i, the lowest 0 unless it is the only one, normalised to 1; its labels are the nearest of the finest.
    Below the labels of regions codes of soft labels may lie, [B, 2 L, *S]: the targets of losses on signed values.
    With `distance_weight` the logits are foreground and distance of instances, [B, 2, *S], and labels [B, 4, *S] (see
    `data/instances`): the terms are on the foreground, the cross-entropy of the distance comes with that weight.
    """

    def __init__(self, terms: Sequence[Term], regions: bool, distance_weight: float | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(t.module for t in terms)
        self.weights = [(t.weight, t.grows) for t in terms]
        self.regions, self.distance_weight = regions, distance_weight

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar in fp32 (fp64 for logits in fp64)."""
        outputs = [output] if isinstance(output, Tensor) else list(output)
        shares = supervision_weights(len(outputs))
        # the sums below must not be done in bf16 or fp16
        device = target.device.type
        # tensors without content, on which the plan counts a step's memory, have no autocast to switch off
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            parts = [
                share * self._one(logits, nearest(target, logits.shape[2:]))
                for share, logits in zip(shares, outputs, strict=True)
                if share  # the lowest output costs nothing
            ]
        return torch.stack(parts).sum()

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.distance_weight is None:
            return self._of_classes(logits, labels)
        distance = self._of_distance(Comparison(logits[:, 1:2], labels[:, 1:2], True, self.pool))
        return self._of_classes(logits[:, :1], labels[:, :1]) + self.distance_weight * distance

    def _of_distance(self, seen: Comparison) -> Tensor:
        # Behind a sigmoid the squared error has no slope where it is largest; both are least at the mean distance.
        distance = seen.labels.to(seen.logits.dtype) / FULL
        cost = functional.binary_cross_entropy_with_logits(seen.logits, distance, reduction="none")
        return seen.mean((cost * seen.valid).sum(), seen.valid.sum())

    def _of_classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        soft = None
        if self.regions and labels.shape[1] > logits.shape[1]:  # a label each, then a target each
            labels, codes = labels.chunk(2, dim=1)
            soft = soft_values(codes)
        seen = Comparison(logits, labels, self.regions, self.pool, soft)
        total = seen.logits.new_zeros(())
        # progress is a tensor on the device: a number would make torch.compile build anew at every step
        for module, (weight, grows) in zip(self.parts, self.weights, strict=True):
            total = total + module(seen) * (weight * self.progress if grows else weight)
        return total


def supervision_weights(levels: int) -> list[float]:
    """Return the weight of each output, finest first: 2^-i, the last 0 unless it is the only one, sum 1."""
    raw = [2.0**-i for i in range(levels)]
    if levels > 1:
        raw[-1] = 0.0  # as nnU-Net: at a few voxels a side the labels say little
    return [w / sum(raw) for w in raw]


def nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return labels [B, L, *S] at another size by taking the voxel nearest to each new voxel's centre."""
    for axis, new in enumerate(size, start=2):
        old = labels.shape[axis]
        if old != new:
            # new centre (i + 1/2) old / new, rounded down, in whole numbers
            index = torch.div((2 * torch.arange(new, device=labels.device) + 1) * old, 2 * new, rounding_mode="floor")
            labels = labels.index_select(axis, index)
    return labels


def build_loss(section: LossSection, labels: Labels, batch_dice: bool = False, learns: str = "voxels") -> Objective:
    """Build the loss that a recipe asks for; `batch_dice` is the plan's, for a recipe that leaves it open.

    `learns` is what the network learns, see `ModelInfo`.
    Raises RecipeError for a key that the chosen loss does not read, a wrong number of class weights, or a loss
    that does not fit the labels (regions or exclusive classes) or the network.
    """
    objects = "queries" if learns == "queries" else "distance"
    usual = objects if labels.instances else "dice_bce" if labels.regions else "dice_ce"
    name = usual if section.name == "auto" else section.name
    _check(section, name, labels, objects)
    if learns == "queries" and labels.num_outputs > 1 and labels.regions:
        raise RecipeError("data.regions: queries leave no voxel to two classes; drop it, or choose another model")
    if name == "queries":
        return query_loss(section)
    pooled = batch_dice if section.batch_dice == "auto" else section.batch_dice
    dice = SoftDice(section.smooth, pooled, section.dice_background, section.dice_squared)
    entropy = CrossEntropy(weights=section.class_weights)
    pair = [Term(dice, section.dice_weight), Term(entropy, section.ce_weight)]
    absolute = Term(FocalL1(section.l1_alpha, section.l1_beta, section.l1_positive), 1.0)
    if labels.instances:
        return SegmentationLoss(pair, regions=True, distance_weight=section.distance_weight)
    options = section.smooth, pooled, section.dice_background
    terms = {
        "dice_ce": pair,
        "dice_bce": pair,
        "dice": [Term(dice, 1.0)],
        "ce": [Term(entropy, 1.0)],
        "focal": [Term(CrossEntropy(section.focal_gamma, section.class_weights), 1.0)],
        "tversky": [Term(Tversky(section.tversky_alpha, section.tversky_beta, *options), 1.0)],
        "boundary": [*pair, Term(Boundary(), section.boundary_weight, grows=True)],
        "focal_l1": [absolute],
        "jaccard_metric": [Term(JaccardMetric(), 1.0)],
        "focal_l1_jaccard": [absolute, Term(JaccardMetric(), section.jaccard_weight)],
    }
    return SegmentationLoss(terms[name], labels.regions)


def check_keys(section: LossSection, name: str) -> None:
    """Refuse keys that the loss of this name does not read. Raises RecipeError."""
    # a key that is given but never read would be a silent mistake
    defaults = LossSection()
    changed = {key for key in type(section).model_fields if getattr(section, key) != getattr(defaults, key)}
    for key in sorted(changed - USED[name] - {"name"}):
        readers = ", ".join(n for n, keys in USED.items() if key in keys)
        raise RecipeError(f"train.loss.{key} is not used by the loss '{name}'; drop it, or choose one of {readers}")


def _check(section: LossSection, name: str, labels: Labels, objects: str) -> None:
    if name == "contours":
        raise RecipeError(
            "train.loss.name=contours is for networks that learn contours, such as hybridgnet; use auto or one of them"
        )
    check_keys(section, name)
    if labels.instances != (name == objects) or name in {"distance", "queries"} - {objects}:
        needed = (
            f"{objects}, the one for instances and this network"
            if labels.instances
            else "auto, or set data.instances=true"
        )
        raise RecipeError(f"train.loss.name={name} does not fit the labels; use {needed}")
    if labels.regions and section.dice_background:
        raise RecipeError("train.loss.dice_background: overlapping classes have no background output; drop it")
    if labels.regions and name in ("dice_ce", "ce"):
        raise RecipeError(f"train.loss.name={name} is for exclusive classes, these overlap; use dice_bce")
    if not labels.regions and name == "dice_bce":
        raise RecipeError("train.loss.name=dice_bce is for overlapping classes, these exclude each other; use dice_ce")
    if not labels.regions and section.targets == "sauna":
        raise RecipeError(
            "train.loss.targets=sauna: soft labels are for regions, one output each; set data.regions=true or use "
            "targets=labels"
        )
    given = section.class_weights
    if given is not None and len(given) != labels.num_outputs:
        names = labels.classes if labels.regions else ("background", *labels.classes)
        raise RecipeError(
            f"train.loss.class_weights has {len(given)} numbers for {len(names)} outputs; "
            f"give one each for {', '.join(names)}"
        )
    if given is not None and not any(given):
        raise RecipeError("train.loss.class_weights are all 0; give at least one positive weight")
    if name in ("dice_ce", "dice_bce", "boundary", "distance") and not section.dice_weight + section.ce_weight:
        raise RecipeError("train.loss: dice_weight and ce_weight are both 0; give at least one a positive value")
