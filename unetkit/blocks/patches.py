"""From images to maps of patches and back: embed, merge, expand, for any number of axes.

Maps are channels last, [B, *S, C]. Merging as in Swin (arXiv:2103.14030), expanding as in Swin-Unet (arXiv:2105.05537).
"""

from torch import Tensor, nn

from unetkit.blocks.layers import Layers


def merge_patches(x: Tensor, factor: int) -> Tensor:
    """Move each block of `factor` voxels per axis of [B, *S, C] into the channels, the first axis running fastest."""
    batch, *size, channels = x.shape
    dims = len(size)
    cut = [part for n in size for part in (n // factor, factor)]
    # [B, n1 / f, f, n2 / f, f, ..., C] -> [B, n1 / f, n2 / f, ..., (f of the last axis, ..., f of the first), C]:
    # Swin's concatenation x[0::2, 0::2], x[1::2, 0::2], ..., on which its published weights depend
    order = [0, *range(1, 2 * dims, 2), *range(2 * dims, 0, -2), 2 * dims + 1]
    return x.reshape(batch, *cut, channels).permute(order).reshape(batch, *cut[::2], factor**dims * channels)


def expand_patches(x: Tensor, factor: int) -> Tensor:
    """Spread the channels of [B, *S, C] over blocks of `factor` voxels per axis, the last axis running fastest."""
    batch, *size, channels = x.shape
    dims = len(size)
    # [B, n1, n2, ..., f, f, ..., C] -> [B, n1, f, n2, f, ..., C]
    order = [0, *(axis for i in range(dims) for axis in (1 + i, 1 + dims + i)), 2 * dims + 1]
    x = x.reshape(batch, *size, *[factor] * dims, channels // factor**dims).permute(order)
    return x.reshape(batch, *(n * factor for n in size), -1)


class PatchEmbed(nn.Module):
    """Turn an image into a normalised map with one token for each patch."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = layers.conv(in_channels, channels, patch, stride=patch, padding=0)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, *S / patch, channels]."""
        return self.norm(self.proj(x).movedim(1, -1))


class PatchMerging(nn.Module):
    """Halve the sides of a map and double its channels: merge blocks of two, norm, linear."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2**dims * channels)
        self.reduction = nn.Linear(2**dims * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S / 2, 2 C]."""
        return self.reduction(self.norm(merge_patches(x, 2)))


class PatchExpand(nn.Module):
    """Multiply the sides of a map by `factor`, leaving `out_channels`: linear, expand, norm."""

    def __init__(self, dims: int, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**dims * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S * factor, out_channels]."""
        return self.norm(expand_patches(self.expand(x), self.factor))
