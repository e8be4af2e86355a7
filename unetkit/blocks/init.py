"""Starting weights."""

from functools import partial
from math import prod

import torch
from torch import nn

from unetkit.blocks.conv import ResidualBlockD

CONVS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def he_init(
    model: nn.Module, slope: float = 0.0, *, zero_bias: bool = False, norm_std: float = 0.0, zero_last: bool = False
) -> None:
    """Draw convolution weights from He's normal distribution (arXiv:1502.01852) for a rectifier of `slope`.

    `zero_bias`: their biases start at 0. `norm_std`: scales of batch norms vary by that much around 1. `zero_last`:
    the last norm of each residual block starts at 0, so that the block starts as its shortcut.
    """
    for module in model.modules():
        if isinstance(module, CONVS):
            nn.init.kaiming_normal_(module.weight, a=slope)  # std = sqrt(2 / (1 + a^2) / fan_in)
            if zero_bias and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, BATCH_NORMS) and norm_std:
            module.weight.normal_(1.0, norm_std)
        if isinstance(module, ResidualBlockD) and zero_last:
            for parameter in module.second[1].parameters():
                parameter.zero_()


def smp_init(decoder: nn.Module, heads: nn.Module) -> None:
    """Start decoder and heads as segmentation_models.pytorch does: He's and Glorot's uniform distributions."""
    for part, draw in (
        (decoder, partial(nn.init.kaiming_uniform_, nonlinearity="relu")),
        (heads, nn.init.xavier_uniform_),
    ):
        for module in part.modules():
            if isinstance(module, CONVS):
                draw(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def linear_init(model: nn.Module) -> None:
    """Draw weights of linear layers from a normal distribution of 0.02 and clear their biases, as Swin does."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def fan_out_init(model: nn.Module) -> None:
    """Draw convolution weights from a normal distribution of sqrt(2 / fan-out), biases 0, as EfficientNet does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            # fan-out of one group: prod(kernel) * outputs / groups
            fan_out = prod(module.kernel_size) * module.out_channels // module.groups
            module.weight.normal_(0.0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()


def glorot_init(model: nn.Module) -> None:
    """Draw weights of convolutions and linear layers from Glorot's uniform distribution, biases 0, as Keras does."""
    for module in model.modules():
        if isinstance(module, (*CONVS, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
