"""Optimiser and learning rate: SGD or AdamW, and a rate that is a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from unetkit.errors import RecipeError
from unetkit.recipe.training import OptimizerSection, ScheduleSection

FUSED_ON = ("cpu", "cuda")
MATRIX = 2
"""Axes of a weight; biases and norms have one."""


def build_optimizer(network: nn.Module, section: OptimizerSection, whole: bool = True) -> torch.optim.Optimizer:
    """Return the optimiser of a network that already lies on its device; `whole`: its parameters are not shared out.

    Parameters marked with `_no_weight_decay` (the decays of scans) never decay. SGD decays all others, as nnU-Net does;
    AdamW leaves out biases and norms too, as transformers expect. Raises RecipeError for a rate of the encoder's own
    where the network has none.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    # one kernel for all parameters; what other devices lack falls back to torch's own choice
    fused = whole and all(p.device.type in FUSED_ON and p.is_floating_point() for p in parameters)
    least = 0 if section.name == "sgd" else MATRIX
    groups = [
        group | extra
        for part, extra in _parts(network, section.encoder_scale)
        for group in decay_groups(part, section.weight_decay, least)
    ]
    if section.name == "sgd":
        # torch refuses Nesterov without momentum; plain SGD is what both keys then mean
        optimizer = torch.optim.SGD(
            groups,
            lr=section.lr,
            momentum=section.momentum,
            nesterov=section.nesterov and section.momentum > 0,
            fused=fused,
        )
        if fused and section.momentum > 0:
            _fill_momentum(optimizer, parameters)
        return optimizer
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, fused=fused)


def _fill_momentum(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Begin with a momentum of zero, which makes the first step what it is without one.

    In fp16 the first gradients often overflow: torch's fused kernel then skips the step, yet leaves the momentum that
    it made for it as whatever lay in memory, and the next step adds that to the weights.
    """
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _parts(network: nn.Module, scale: float) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """Return the parameters that learn: of the encoder apart, with the scale of their rate, where that is not 1."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if scale == 1:
        return [([p for _, p in named], {})]
    encoder = [p for name, p in named if "encoder" in name.split(".")]
    if not encoder:
        raise RecipeError(
            f"train.optimizer.encoder_scale={scale:g}: this network has no encoder that learns; drop the key"
        )
    rest = [p for name, p in named if "encoder" not in name.split(".")]
    return [(rest, {"scale": 1.0}), (encoder, {"scale": scale})]


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float, least: int = MATRIX) -> list[dict[str, Any]]:
    """Split parameters into those that decay (`least` axes or more, not marked `_no_weight_decay`) and others."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for p in parameters:
        keep = p.ndim >= least and not getattr(p, "_no_weight_decay", False)
        (decayed if keep else spared).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate(
    section: ScheduleSection, base: float, step: int, total: int | None, steps_per_epoch: int, over: float = 0.0
) -> float:
    """Return the rate of a step, 0 to total - 1: linear warm-up to `base`, then the chosen decay to `min_lr`.

    poly: base * (1 - t)^power, cosine: half a cosine, with t from 0 to 1 over the steps after the warm-up; where nobody
    knows the steps (None), t is `over`, the share of the training's time that is over, 0 to 1.
    """
    # never from 0: a first step of rate 0 would be wasted
    warmup = round(section.warmup * steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    # a function of the step alone, so resuming needs no scheduler state; nnU-Net changes it once an epoch
    t = over if total is None else (step - warmup) / max(total - warmup, 1)
    if section.name == "poly":
        return max(base * (1 - t) ** section.power, section.min_lr)
    if section.name == "cosine":
        return section.min_lr + (base - section.min_lr) * (1 + math.cos(math.pi * t)) / 2
    return base


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
