"""The boundary loss: probabilities weighed by the distance to the true surface (arXiv:1812.07032)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from unetkit.engine.losses.comparison import Comparison
from unetkit.engine.losses.overlap import foreground


class Boundary(nn.Module):
    """Mean over valid voxels and classes of p * phi, with phi the signed distance to the reference's surface.

    phi is in voxels of the output at hand, negative inside: the spacing is not looked at, so that on anisotropic
    images a step through plane counts no more than one in plane. A class that is absent (or everywhere) has no
    surface and counts 0; ignored voxels are outside of every class. The maps are made from the labels of each batch
    on the CPU, so on a GPU every step waits for them.
    """

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        p, g = foreground(seen, background=False)
        # no gradient passes through phi: it depends on the labels alone
        masks = g.detach().bool().cpu().numpy()
        maps = np.stack([[signed_distance(mask) for mask in sample] for sample in masks])
        phi = torch.from_numpy(maps).to(p)
        return seen.mean((p * phi).sum(), seen.valid.expand_as(p).sum())


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance of each voxel to the surface of a boolean mask, in voxels, float32.

    Outside it is the distance to the nearest voxel of the mask; inside, minus the distance to the nearest voxel
    outside, plus 1, so that the border voxels of the mask are 0. Zeros if the mask is empty or full.
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    # the transform gives 1 to the border voxels of the mask; less 1, they lie on the surface
    return (outside - np.where(mask, inside - 1, 0)).astype(np.float32)
