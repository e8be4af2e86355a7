"""Barlow-Swin: a shallow Swin encoder below a decoder of separable convolutions (arXiv:2509.06885).

The paper trains the encoder by Barlow Twins first; here is the network alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.init import linear_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import merge_patches
from unetkit.blocks.swin import PATCH, Level, SwinStage, stem_channels
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

SHIFT = 1
"""Windows move by one token, not by half their side."""
KERAS_NORM = ("batch", {"eps": 1e-3, "momentum": 0.01})


class PlainMerging(nn.Module):
    """Halve the sides of a map and double its channels: merge blocks of two, then a linear layer alone."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(2**dims * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S / 2, 2 C]."""
        return self.reduction(merge_patches(x, 2))


class SwinEncoder(nn.Module):
    """Patches with learned positions, then stages of windows; gives the map of each stage, finest first."""

    def __init__(self, layers: Layers, in_channels: int, grid: Sequence[int], levels: Sequence[Level]) -> None:
        super().__init__()
        width = levels[0].channels
        self.embed = layers.conv(in_channels, width, PATCH, stride=PATCH, padding=0)
        self.position_embeddings = nn.Parameter(torch.empty(*grid, width))
        merges = [None, *(PlainMerging(layers.dims, level.channels) for level in levels[:-1])]
        self.merges = nn.ModuleList(merge or nn.Identity() for merge in merges)
        self.stages = nn.ModuleList(SwinStage(level.blocks()) for level in levels)
        linear_init(self)
        nn.init.uniform_(self.position_embeddings, -0.05, 0.05)  # as Keras draws embeddings

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images [B, C, *S] to maps [B, C, *S / 4], [B, 2 C, *S / 8], ..."""
        x = self.embed(x).movedim(1, -1) + self.position_embeddings
        maps = []
        for merge, stage in zip(self.merges, self.stages, strict=True):
            x = stage(merge(x))
            maps.append(x.movedim(-1, 1))
        return maps


class SeparableConv(nn.Sequential):
    """A depthwise convolution, a 1 wide one, norm and activation."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        depthwise = layers.conv(in_channels, in_channels, groups=in_channels, bias=False)
        super().__init__(depthwise, ConvNormAct(layers, in_channels, channels, kernel=1))


class SeparableBlock(nn.Module):
    """Two separable convolutions beside a projected shortcut, without an activation after the sum."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, dropout: float) -> None:
        super().__init__()
        first, second = SeparableConv(layers, in_channels, channels), SeparableConv(layers, channels, channels)
        self.path = nn.Sequential(first, second, nn.Dropout(dropout))
        self.shortcut = ConvNormAct(layers.but(act="none"), in_channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, channels, *S]."""
        return self.shortcut(x) + self.path(x)


class BarlowSwin(nn.Module):
    """The encoder, then one enlarging step and one SeparableBlock for each of `widths`, deepest first, and a head.

    The first steps join the encoder's maps, the last two none. An image of one channel is repeated where
    `stem_channels` is 3. Blocks drop `dropout` of their values in training.
    """

    def __init__(
        self,
        layers: Layers,
        stem_channels: int,
        num_classes: int,
        encoder: SwinEncoder,
        widths: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem_channels = stem_channels
        self.encoder = encoder
        channels = [2**i * encoder.embed.out_channels for i in range(len(encoder.stages))]
        skips = [*channels[-2::-1], 0, 0]
        before = [channels[-1], *widths]
        self.up = layers.up(0, 0)
        self.blocks = nn.ModuleList(
            SeparableBlock(layers, below + skip, width, dropout)
            for below, skip, width in zip(before, skips, widths, strict=False)
        )
        # the reference normalises the logits too
        self.head = ConvNormAct(layers.but(act="none"), widths[-1], num_classes, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        *skips, x = self.encoder(x.expand(-1, self.stem_channels, *x.shape[2:]))
        for block in self.blocks:
            x = self.up(x)
            x = block(torch.cat([x, skips.pop()], 1) if skips else x)
        return self.head(x)


@register(
    ModelInfo(
        title="Barlow-Swin",
        family="hybrid",
        year=2025,
        paper="2509.06885",
        dims=(2, 3),
        multiple=16,
        fixed=True,
        source=("github:mkianih/Barlow-Swin", "a45ca42", "none stated"),
        params={2: 7001683},
        params_at={2: (3, 1, (512, 512))},
        gflops={2: 34.77},
        activation_mb={2: 1114.0},
        notes=(
            "Positions are learned for the built patch size, so parameters vary with it. The reference never trains "
            "its 2352 relative position biases, nor saves them, and so counts 6999331: by default they learn, "
            "as_published=true freezes them. Its sigmoid is left to the loss. One channel is repeated to three. Sides "
            "that windows do not divide (padded and masked) and 3D are our extension."
        ),
    )
)
def barlow_swin(
    task: TaskShape,
    *,
    embed_dim: int = 96,
    heads: int = 8,
    window: int = 4,
    mlp_ratio: float = 4.0,
    decoder_widths: Sequence[int] = (192, 128, 64, 32),
    dropout: float = 0.1,
    as_published: bool = False,
) -> nn.Module:
    """Build Barlow-Swin: three stages of two blocks, `embed_dim` channels at the first, `heads` in each.

    `dropout` is that of the decoder's blocks. Raises ModelError if the options contradict each other.
    """
    if embed_dim % heads:
        raise ModelError(f"embed_dim={embed_dim} does not divide into {heads} heads")
    if window < 1:
        raise ModelError(f"window={window}: give the side of a window, 1 or more")
    if len(decoder_widths) != 4:
        raise ModelError(f"decoder_widths {tuple(decoder_widths)}: give four, one for each doubling")
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout {dropout} is a probability, 0 or more and below 1")
    levels = []
    for i in range(3):
        side = min(window, min(task.patch_size) // (PATCH * 2**i))
        width = embed_dim * 2**i
        levels.append(Level(width, heads, (side,) * task.dims, int(width * mlp_ratio), (0.0, 0.0), SHIFT))
    layers = Layers(task.dims, norm=KERAS_NORM, up="nearest")
    stem = stem_channels(task)
    encoder = SwinEncoder(layers, stem, [n // PATCH for n in task.patch_size], levels)
    model = BarlowSwin(layers, stem, task.num_classes, encoder, decoder_widths, dropout)
    if as_published:
        for key, parameter in model.named_parameters():
            if key.endswith("relative_position_bias_table"):
                parameter.requires_grad_(False)
    return model
