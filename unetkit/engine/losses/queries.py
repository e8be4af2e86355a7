"""What queries are trained by: each is matched with an object or with none, at every layer (arXiv:2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetkit.blocks.queries import Queries
from unetkit.engine.losses.matching import at_points, cheapest, mask_costs, unsure_points, voxel_centres
from unetkit.engine.losses.objective import Objective
from unetkit.recipe.training import LossSection
from unetkit.types import IGNORE

_SUPPOSED = 32
"""So many objects an image has where only the memory of a step is counted."""


@dataclass(frozen=True)
class Objects:
    """The objects of a sample: masks 0 or 1 [N, H, W], and where the label says anything, 0 or 1 [1, H, W]."""

    masks: Tensor
    valid: Tensor


def objects_of(label: Tensor) -> Objects:
    """Return the objects of an encoded label of instances uint8 [4, H, W] (see `data/instances`), as fp32.

    What a crop has left of an object is an object; what is ignored belongs to none.
    """
    known = label[0] != IGNORE
    if label.is_meta:
        return Objects(label.new_empty((_SUPPOSED, *label.shape[1:]), dtype=torch.float32), known[None].float())
    numbers = (label[2].int() + 256 * label[3].int()) * known
    values = numbers.unique()
    return Objects((numbers[None] == values[values > 0][:, None, None]).float(), known[None].float())


class QueryLoss(Objective):
    """Cross-entropy of the class of every query, and of those matched with an object BCE and Dice of the mask.

    `class_weight`, `mask_weight` and `dice_weight` weigh the terms, in the sum and as costs of the matching; classes of
    queries without an object weigh `no_object`. Masks are compared at `points` points: random ones for the matching,
    the least sure ones for the loss, or all voxels of a patch that has no more. Of more objects than queries the
    dearest have no query. The sum over samples is divided by the number of objects, as if they were one batch.
    """

    def __init__(
        self, points: int, *, class_weight: float, mask_weight: float, dice_weight: float, no_object: float
    ) -> None:
        super().__init__()
        self.points, self.no_object = points, no_object
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight

    def outputs(self, network: nn.Module, image: Tensor) -> Any:
        """Return the queries of every layer."""
        return network.queries(image)  # type: ignore[operator]

    def forward(self, output: Sequence[Queries], target: Tensor) -> Tensor:
        """Return the loss of a batch, the sum over layers, a scalar in fp32 (fp64 for masks in fp64)."""
        device = target.device.type
        # the sums below must not be done in bf16 or fp16; tensors without content have no autocast
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            samples = [objects_of(label) for label in target]
            return torch.stack([self._layer(found, samples) for found in output]).sum()

    def _layer(self, found: Queries, samples: Sequence[Objects]) -> Tensor:
        wide = torch.promote_types(found.masks.dtype, torch.float32)
        classes, masks = found.classes.to(wide), found.masks.to(wide)
        # one class: the first; without an object: the last
        wanted = torch.full(classes.shape[:2], classes.shape[-1] - 1, device=classes.device)
        terms = [masks.sum() * 0]  # an empty image still needs all masks in the graph, or processes would wait
        for sample, (logits, mask, objects) in enumerate(zip(classes, masks, samples, strict=True)):
            queries, chosen = self._match(logits, mask, objects)
            wanted[sample, queries] = 0
            if len(chosen):
                terms.append(self._masks(mask[queries], objects, chosen))
        weights = torch.ones(classes.shape[-1], dtype=wide, device=classes.device)
        weights[-1] = self.no_object
        entropy = functional.cross_entropy(classes.flatten(0, 1), wanted.flatten(), weights, reduction="sum")
        share = self._mean_over(weights[wanted].sum())
        count = self._mean_over(masks.new_tensor(float(sum(len(o.masks) for o in samples))))
        return self.class_weight * entropy / share + torch.stack(terms).sum() / count.clamp(min=1)

    def _mean_over(self, total: Tensor) -> Tensor:
        """Return what a sum is on average over processes that train together."""
        return total if self.pool is None else self.pool(total) / self.pool.world

    @torch.no_grad()
    def _match(self, classes: Tensor, masks: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        points = self._anywhere(objects.valid)
        seen, valid = at_points(masks, points), at_points(objects.valid.to(masks.dtype), points, "nearest")[0]
        entropy, dice = mask_costs(seen, at_points(objects.masks.to(masks.dtype), points, "nearest"), valid)
        chance = classes.softmax(-1)[:, :1]
        return cheapest(self.mask_weight * entropy + self.dice_weight * dice - self.class_weight * chance)

    def _anywhere(self, valid: Tensor) -> Tensor:
        if self.points >= valid.numel():
            return voxel_centres(valid.shape[1:], valid)
        return torch.rand(self.points, 2, device=valid.device, dtype=valid.dtype)

    def _masks(self, masks: Tensor, objects: Objects, chosen: Tensor) -> Tensor:
        """Return the sum over pairs of mask logits [M, h, w] with the chosen objects."""
        truth, valid = objects.masks[chosen], objects.valid.expand(len(chosen), -1, -1)
        every = self.points >= objects.valid.numel()
        points = voxel_centres(truth.shape[1:], masks) if every else unsure_points(masks, self.points)
        seen = at_points(masks, points)
        truth, counts = (at_points(array.to(masks.dtype), points, "nearest") for array in (truth, valid))
        cost = functional.binary_cross_entropy_with_logits(seen, truth, reduction="none") * counts
        inside, truth = seen.sigmoid() * counts, truth * counts
        dice = 1 - (2 * (inside * truth).sum(1) + 1) / (inside.sum(1) + truth.sum(1) + 1)
        entropy = cost.sum(1) / counts.sum(1).clamp(min=1)
        return (self.mask_weight * entropy + self.dice_weight * dice).sum()


def query_loss(section: LossSection) -> QueryLoss:
    """Build the loss of queries from the recipe's section."""
    return QueryLoss(
        section.points,
        class_weight=section.ce_weight,
        mask_weight=section.mask_weight,
        dice_weight=section.mask_dice_weight,
        no_object=section.no_object_weight,
    )
