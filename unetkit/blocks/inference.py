"""Changes to a trained network that make it faster and leave its results and its state dict as they are."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

InstanceNorm = nn.InstanceNorm2d | nn.InstanceNorm3d
FEW_CHANNELS = 16
"""Below this many channels, group norm on channels-last bf16 maps is the slower of the two."""


def optimise_for_inference(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Return a copy of `model` in eval mode for `device` that computes the same, sharing its weights.

    On the CPU, instance norm becomes group norm with one channel per group: mathematically equal, and several
    times faster there. On other devices nothing is swapped.
    """
    # deepcopy looks here first, so the tensors are shared and only the modules are new
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copy = deepcopy(model, shared).eval()
    if torch.device(device).type == "cpu":
        for parent in list(copy.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, InstanceNorm) and _swappable(child):
                    setattr(parent, name, _group_norm(child))
    return copy


def _swappable(norm: InstanceNorm) -> bool:
    # running statistics are not those of the map at hand, which group norm takes
    return norm.num_features >= FEW_CHANNELS and not norm.track_running_stats


def _group_norm(norm: InstanceNorm) -> nn.GroupNorm:
    """Return group norm with one channel per group and the weights of an instance norm."""
    # on meta: nothing is allocated for weights that are replaced at once
    swapped = nn.GroupNorm(norm.num_features, norm.num_features, eps=norm.eps, affine=norm.affine, device="meta")
    swapped.weight, swapped.bias = norm.weight, norm.bias
    return swapped.eval()
