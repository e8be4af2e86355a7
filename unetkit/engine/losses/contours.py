"""The loss of networks that find contours: positions of points, and what else such a network says."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from unetkit.blocks.contours import ContourNetwork, Landmarks, Rings, pool_rings, ring_sizes
from unetkit.data.contours import contour_points, outward_distances
from unetkit.engine.losses.build import check_keys
from unetkit.engine.losses.objective import Objective
from unetkit.errors import RecipeError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

CONTOURS = "contours"
"""Name of this loss, and what `ModelInfo.learns` says of networks that have it."""


class ContourLoss(Objective):
    """Mean error of the coordinates of points, of the result and of every intermediate answer; their sum.

    Targets are the contours of the label maps (see `data/contours`), made from the labels of each batch on the CPU, so
    on a GPU every step waits for them. Answers on pooled rings are compared with targets pooled alike. The points of a
    class that an image lacks do not count. Added are the mean error of distances, where a network gives an outer
    contour so, and `kld_weight` times the divergence of the latent distribution from the standard normal one, a mean
    over its entries.
    """

    def __init__(self, rings: Rings, regions: bool, error: str, kld_weight: float) -> None:
        super().__init__()
        self.rings, self.regions, self.error, self.kld_weight = rings, regions, error, kld_weight

    def outputs(self, network: nn.Module, image: Tensor) -> Landmarks:
        """Return the points of a network, before they are drawn."""
        found: Landmarks = network.landmarks(image)  # type: ignore[operator]
        return found

    def forward(self, output: Landmarks, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar in fp32."""
        device = target.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            points, known = self._targets(target)
            total = output.positions[0].new_zeros(())
            for found in output.positions:
                if output.distances is None:
                    total = total + self._of_rings(found.float(), points, known)
                else:  # the outer contour has no positions, those of the inner ones come first
                    count = found.shape[1]
                    total = total + self._mean(found.float(), points[:, :count], known[:, :count])
            if output.distances is not None:
                total = total + self._of_distances(output.distances.float(), points, known)
            if output.latent is not None:
                mean, log_variance = output.latent
                divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
                total = total + self.kld_weight * divergence
        return total

    def _targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return points [B, N, 2] and whether they are known, 0 or 1 [B, N, 1]."""
        shape = (len(labels), sum(ring_sizes(self.rings)))
        if labels.is_meta:  # a step's memory is counted on tensors without content
            return labels.new_empty((*shape, 2), dtype=torch.float32), labels.new_empty(
                (*shape, 1), dtype=torch.float32
            )
        maps = labels.cpu().numpy()
        pairs = [contour_points(one, self.rings, regions=self.regions) for one in maps]
        points, known = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return points.to(labels.device), known[..., None].to(labels.device, torch.float32)

    def _of_rings(self, found: Tensor, points: Tensor, known: Tensor) -> Tensor:
        if found.shape[1] < points.shape[1]:
            points, known = pool_rings(points, self.rings), pool_rings(known, self.rings)
        return self._mean(found, points, known)

    def _of_distances(self, found: Tensor, points: Tensor, known: Tensor) -> Tensor:
        count = found.shape[1]
        inner, outer = points[:, :count], points[:, -count:]
        both = known[:, :count] * known[:, -count:]
        if points.is_meta:
            return self._mean(found[..., None], found.detach()[..., None], both)
        pairs = zip(inner.cpu().numpy(), outer.cpu().numpy(), strict=True)
        wanted = torch.from_numpy(np.stack([outward_distances(*pair) for pair in pairs])).to(found.device)
        return self._mean(found[..., None], wanted[..., None], both)

    def _mean(self, found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
        """Return the mean error of [B, M, C] over the points that are known [B, M, 1]."""
        difference = found - wanted
        each = difference.square() if self.error == "mse" else difference.abs()
        count = known.sum()
        if self.pool is not None:
            count = self.pool(count) / self.pool.world
        return (each.mean(2, keepdim=True) * known).sum() / count.clamp(min=1)


def check_contours(recipe: Recipe, plan: Plan) -> None:
    """Refuse what does not go with a network that learns contours. Raises RecipeError."""
    _check_loss(recipe, plan)
    if plan.resize != plan.patch_size:
        raise RecipeError(
            f"{recipe.model.name} finds the contours of whole images, which must have the size of a patch; set "
            f"data.resize={list(plan.patch_size)}"
        )


def _check_loss(recipe: Recipe, plan: Plan) -> None:
    section = recipe.train.loss
    if section.name not in ("auto", CONTOURS):
        raise RecipeError(f"train.loss.name={section.name}: {recipe.model.name} learns contours, not voxels; use auto")
    check_keys(section, CONTOURS)
    if plan.labels.instances:
        raise RecipeError(
            f"data.instances=true: {recipe.model.name} has a fixed number of contours for each class; drop it, or "
            "choose another model"
        )
    if recipe.train.parallel == "fsdp":
        raise RecipeError("train.parallel=fsdp: networks of contours are small; use ddp")


def contour_loss(network: nn.Module, recipe: Recipe, plan: Plan) -> ContourLoss:
    """Return the loss for a network of contours. Raises RecipeError where recipe and network do not go with it."""
    # plans that are only weighed say nothing of resizing
    _check_loss(recipe, plan)
    assert isinstance(network, ContourNetwork)  # its ModelInfo says so
    if network.regions != plan.labels.regions:
        raise RecipeError(
            f"model.options.regions={str(network.regions).lower()} contradicts data.regions, which decides it; drop it"
        )
    section = recipe.train.loss
    return ContourLoss(network.rings, network.regions, section.point_error, section.kld_weight)
