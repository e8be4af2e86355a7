"""Masked autoencoder: hide parts of an image, and restore them with the network and its head (arXiv:2111.06377).

Hidden voxels are set to 0 and stay in the input, as in SimMIM (arXiv:2111.09886): so any network will do, which a
decoder that adds the hidden tokens would not allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.engine.losses.objective import Objective
from unetkit.types import IGNORE, TaskShape


def draw_mask(batch: int, size: Sequence[int], part: Sequence[int], ratio: float, device: torch.device) -> Tensor:
    """Return what is hidden of each sample, bool [B, 1, *S]: `ratio` of the parts of a regular grid.

    The last part of an axis is cut where `part` does not divide the side. At least one is hidden and one seen.
    """
    grid = [-(-n // p) for n, p in zip(size, part, strict=True)]
    count = math.prod(grid)
    hidden = min(max(round(ratio * count), 1), count - 1)
    # the order of random numbers is a random permutation: equally many hidden in every sample
    mask = (torch.rand(batch, count, device=device).argsort(1) < hidden).view(batch, 1, *grid)
    for axis, (n, p) in enumerate(zip(size, part, strict=True), start=2):
        mask = mask.repeat_interleave(p, axis).narrow(axis, 0, n)
    return mask


class MaskedImages(nn.Module):
    """A network of as many outputs as channels, on images that are partly hidden.

    `task` is that of the network.
    """

    task: TaskShape

    def __init__(self, network: nn.Module, part: Sequence[int], ratio: float) -> None:
        super().__init__()
        self.network, self.part, self.ratio = network, tuple(part), ratio
        self.task = network.task  # type: ignore[assignment]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the restored image, the image [B, C, *S], and what was hidden [B, 1, *S]."""
        mask = draw_mask(len(image), image.shape[2:], self.part, self.ratio, image.device)
        output = self.network(image.masked_fill(mask, 0.0))
        return output if isinstance(output, Tensor) else output[0], image, mask


class MaskedError(Objective):
    """Mean squared error over hidden voxels within the image; what is padded (IGNORE in the label) does not count."""

    def forward(self, output: tuple[Tensor, Tensor, Tensor], label: Tensor) -> Tensor:
        """Return the loss of what MaskedImages gives, a scalar in fp32."""
        restored, image, mask = output
        counted = mask & (label[:, :1] != IGNORE)
        squared = (restored.float() - image.float()).square().mean(1, keepdim=True)
        voxels = counted.sum()
        if self.pool is not None:
            voxels = self.pool(voxels.float()) / self.pool.world
        return squared.masked_fill(~counted, 0.0).sum() / voxels.clamp(min=1)
