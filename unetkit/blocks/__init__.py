"""The parts that networks share, for 2D and 3D; each block takes the network's Layers first."""

from unetkit.blocks.conv import ConvNormAct, ConvStack, Repeat, ResidualBlockD
from unetkit.blocks.layers import Layers
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet

__all__ = [
    "ConvNormAct",
    "ConvStack",
    "Decoder",
    "Encoder",
    "Heads",
    "Layers",
    "Repeat",
    "ResidualBlockD",
    "UNet",
]
