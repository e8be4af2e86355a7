"""Objects as queries: vectors that look for one object each in a map, and what they come to (arXiv:2112.01527)."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

FLOOR = 1e-6
"""Least chance that anything, or nothing, is at a voxel: logits stay finite."""
_WAVES = 10000.0


class Queries(NamedTuple):
    """What Q queries found in a batch, at some depth of a network.

    `classes` [B, Q, C + 1] are logits, "no object" last; `masks` [B, Q, *s] are logits, smaller than the image;
    `boxes` [B, Q, 2 D] are from 0 to 1: centre, then size, in the order of the axes from the last to the first.
    """

    classes: Tensor
    masks: Tensor
    boxes: Tensor


class QueryLayer(nn.Module):
    """Queries look at a map, then at each other, then a perceptron; norms come after each of the three."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.among = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        layers = (nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels))
        self.mlp = nn.Sequential(*layers)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.drop = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, queries: Tensor, places: Tensor, seen: Tensor, where: Tensor) -> Tensor:
        """Map queries [B, Q, C], with their learnt places, by a map's tokens [B, N, C] and places [N, C]."""
        # places tell where to look, and are no part of what is seen
        found, _ = self.cross(queries + places, seen + where, seen, need_weights=False)
        queries = self.norms[0](queries + self.drop(found))
        asking = queries + places
        found, _ = self.among(asking, asking, queries, need_weights=False)
        queries = self.norms[1](queries + self.drop(found))
        after: Tensor = self.norms[2](queries + self.drop(self.mlp(queries)))
        return after


def sine_places(size: torch.Size, channels: int, like: Tensor) -> Tensor:
    """Return sines and cosines of each voxel's place in a map, [N, channels]: equal shares of channels for each axis.

    Waves lie between the map's size and 10000 times that. `channels` is a multiple of twice the number of axes.
    """
    share = channels // len(size)
    index = torch.arange(share, device=like.device)
    waves = _WAVES ** (torch.div(index, 2, rounding_mode="floor") * 2 / share)
    parts = []
    for axis, n in enumerate(size):
        # centres would be (i + 1/2) / n; published is (i + 1) / n
        angle = torch.arange(1, n + 1, device=like.device)[:, None] * (2 * math.pi / n) / waves
        part = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)
        shape = [n if other == axis else 1 for other in range(len(size))]
        parts.append(part.view(*shape, share).expand(*size, share))
    return torch.cat(parts, dim=-1).flatten(0, -2).to(like.dtype)


def semantic(found: Queries, num_classes: int) -> Tensor:
    """Return logits [B, num_classes, *s] of what queries found: background and C classes, or one class alone.

    A query covers a voxel with the chance p(object) x sigmoid(mask); background is where none does, which is what mask
    classification (arXiv:2107.06278) has no class for. What is covered is shared among the classes as there, by the sum
    over queries of p(class) x sigmoid(mask). Background has the logit 0, or is left out for one class alone.
    """
    device, wide = found.masks.device.type, torch.promote_types(found.masks.dtype, torch.float32)
    # logarithms of small chances must not be done in half precision; tensors without content have no autocast
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        chances = found.classes.to(wide).softmax(-1)[..., :-1]
        inside = found.masks.to(wide).sigmoid().flatten(2)
        covered = (chances.sum(-1)[..., None] * inside).clamp(max=1 - FLOOR)
        nothing = torch.log1p(-covered).sum(1, keepdim=True).clamp(max=-FLOOR)
        odds = torch.log(-torch.expm1(nothing)) - nothing
        shares = torch.einsum("bqc,bqn->bcn", chances, inside).clamp(min=FLOOR)
        logits = odds + (shares / shares.sum(1, keepdim=True)).log()
        if num_classes > 1:
            logits = torch.cat((torch.zeros_like(odds), logits), dim=1)
        return logits.view(*logits.shape[:2], *found.masks.shape[2:])
