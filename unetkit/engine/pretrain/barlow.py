"""Barlow Twins: two views of an image shall give the same features, each of which says something else.

arXiv:2103.03230.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from unetkit.engine.losses.objective import Objective
from unetkit.errors import RecipeError
from unetkit.types import TaskShape

_EPS = 1e-5
"""Added to variances, as batch norm does."""


def deepest_map(network: nn.Module, image: Tensor) -> Tensor:
    """Return the deepest map [B, C, *S] of a network's encoder for images."""
    # networks for colour repeat a single channel before their encoder
    channels = getattr(network, "stem_channels", image.shape[1])
    maps = network.encoder(image.expand(-1, channels, *image.shape[2:]))  # type: ignore[operator]
    if not isinstance(maps, Tensor):
        maps = [one for one in maps if isinstance(one, Tensor)][-1]
    if maps.ndim != image.ndim:
        raise TypeError(f"its encoder gives {maps.ndim} axes")
    return maps


def encoder_channels(network: nn.Module, name: str) -> int:
    """Return the channels of the encoder's deepest map. Raises RecipeError for a network that has no such."""
    try:
        # a copy without content: nothing is computed, and no statistics of the network move
        empty = copy.deepcopy(network).to("meta").eval()
        task: TaskShape = network.task  # type: ignore[assignment]
        with torch.no_grad():
            return deepest_map(empty, torch.empty(1, task.in_channels, *task.patch_size, device="meta")).shape[1]
    except (AttributeError, TypeError, IndexError, RuntimeError) as error:
        raise RecipeError(
            f"train.pretrain.method=barlow: {name} has no encoder whose deepest map can be taken by itself; "
            "use method=mae, or another model"
        ) from error


class TwoViews(nn.Module):
    """The encoder of a network on two views of each image, its deepest map averaged and projected.

    `channels` are those of that map, `widths` those of the projector's layers. `task` is that of the network, whose
    decoder does not take part.
    """

    task: TaskShape

    def __init__(self, network: nn.Module, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.task = network.task  # type: ignore[assignment]
        layers: list[nn.Module] = []
        for before, width in zip((channels, *widths[:-2]), widths[:-1], strict=True):
            layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Linear((channels, *widths)[-2], widths[-1], bias=False))
        self.projector = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [2 B, C, *S], all first views before all second ones, to two features [B, D]."""
        # one after the other: batch norms take the statistics of each view by itself, as in the paper
        first, second = (self._features(view) for view in images.chunk(2))
        return first, second

    def _features(self, image: Tensor) -> Tensor:
        found: Tensor = self.projector(deepest_map(self.network, image).flatten(2).mean(2))
        return found


class RedundancyLoss(Objective):
    """(1 - C_ii)^2 summed, plus `weight` times C_ij^2 of all others; C correlates the features of the two views."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, output: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        """Return the loss of what TwoViews gives, a scalar in fp32; labels say nothing here."""
        device = output[0].device.type
        # correlations of bf16 features would carry two digits
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            c = self.correlation(output[0].float(), output[1].float())
            diagonal = torch.diagonal(c)
            return (1 - diagonal).square().sum() + self.weight * (c.square().sum() - diagonal.square().sum())

    def correlation(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the cross-correlation [D, D] over the batch of features [B, D]."""
        samples = self._pooled(first.new_tensor(float(len(first)))) if self.pool else len(first)
        a, b = (self._standardised(one, samples) for one in (first, second))
        return self._pooled(a.T @ b) / samples

    def _standardised(self, features: Tensor, samples: Tensor | int) -> Tensor:
        centred = features - self._pooled(features.sum(0)) / samples
        return centred * (self._pooled(centred.square().sum(0)) / samples + _EPS).rsqrt()

    def _pooled(self, sums: Tensor) -> Tensor:
        return sums if self.pool is None else self.pool(sums)
