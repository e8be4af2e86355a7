"""What a network of unpadded convolutions needs around its input, so that its output is as large as the image."""

import torch
from torch import Tensor, nn

from unetkit.blocks.unet import crop


def mirror(x: Tensor, before: int, after: int, axis: int) -> Tensor:
    """Continue `x` on both sides of one axis by its mirror image, the border voxel not repeated, as far as needed."""
    size = x.shape[axis]
    # the mirrored signal repeats after 2 n - 2 voxels; torch's own padding reaches less than n
    index = torch.arange(-before, size + after, device=x.device) % max(2 * size - 2, 1)
    return x.index_select(axis, torch.where(index < size, index, 2 * size - 2 - index))


class MirrorBorder(nn.Module):
    """Give a network of unpadded convolutions the border that it eats, mirrored as in the paper's overlap tiles.

    Input and output have one size. The network has `levels` levels of two convolutions, 3 wide.
    """

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network = network
        self.scale = 2 ** (levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        # a deepest map of b voxels needs an input of scale * b + 4 (scale - 1) and gives scale * (b - 8) + 4
        size = x.shape[2:]
        for axis, side in enumerate(size, start=2):
            deepest = 8 + -(-max(side - 4, 1) // self.scale)
            extra = self.scale * deepest + 4 * (self.scale - 1) - side
            x = mirror(x, extra // 2, extra - extra // 2, axis)
        return crop(self.network(x), size)
