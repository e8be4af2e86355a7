"""Which query stands for which object: points where masks are compared, costs of pairs, and the cheapest matching."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

_OVERSAMPLED = 3
"""So many random points are looked at for each that is asked for (arXiv:1912.08193)."""
_UNSURE = 0.75


def voxel_centres(size: torch.Size, like: Tensor) -> Tensor:
    """Return the places of all voxels of an image [H, W] from 0 to 1: [H * W, 2], x before y."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), dim=1)


def at_points(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Return the values of maps [N, H, W] at points from 0 to 1, [P, 2] for all or [N, P, 2] for each: [N, P]."""
    if points.ndim == 2:  # the same for all maps, which are then channels of one
        found = functional.grid_sample(maps[None], 2 * points[None, None] - 1, mode=mode, align_corners=False)
        return found[0, :, 0]
    found = functional.grid_sample(maps[:, None], 2 * points[:, None] - 1, mode=mode, align_corners=False)
    return found[:, 0, 0]


@torch.no_grad()
def unsure_points(masks: Tensor, count: int) -> Tensor:
    """Return points [N, count, 2] for mask logits [N, H, W]: most where they are nearest to 0, others anywhere.

    The former are three quarters, chosen among three times as many random ones.
    """
    drawn = torch.rand(len(masks), _OVERSAMPLED * count, 2, device=masks.device, dtype=masks.dtype)
    unsure = round(_UNSURE * count)
    nearest = at_points(masks, drawn).abs().topk(unsure, dim=1, largest=False).indices
    kept = drawn.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat((kept, torch.rand(len(masks), count - unsure, 2, device=masks.device, dtype=masks.dtype)), dim=1)


def mask_costs(logits: Tensor, objects: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and 1 - Dice [Q, N] of Q masks with N objects.

    Logits [Q, P], objects 0 or 1 [N, P], and which points count, 0 or 1 [P].
    """
    points = valid.sum().clamp(min=1)
    wrong_inside, wrong_outside = functional.softplus(-logits) * valid, functional.softplus(logits) * valid
    entropy = (wrong_inside @ objects.T + wrong_outside @ (1 - objects).T) / points
    inside, objects = logits.sigmoid() * valid, objects * valid
    shared = inside @ objects.T
    dice = 1 - (2 * shared + 1) / (inside.sum(1)[:, None] + objects.sum(1)[None] + 1)
    return entropy, dice


def cheapest(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices (queries, objects) of the matching of the least total cost [Q, N]: min(Q, N) pairs.

    Tensors without content are matched in their order.
    """
    if costs.is_meta:
        some = torch.arange(min(costs.shape), device=costs.device)
        return some, some
    # a mask that has overflown must not stop the training before the loss says so
    table = costs.detach().nan_to_num(nan=0.0).cpu().numpy()
    rows, columns = linear_sum_assignment(table)
    return (torch.as_tensor(rows, device=costs.device), torch.as_tensor(columns, device=costs.device))
