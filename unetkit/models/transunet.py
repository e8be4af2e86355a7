"""TransUNet: stages of a ResNet-50, a ViT on their deepest map, a convolutional decoder (arXiv:2102.04306)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import Mlp, MultiHeadAttention, TransformerBlock
from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.layers import Layers
from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, source_weights
from unetkit.models._vit_weights import vit_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

PATCH = 16
DECODER = Layers(2, norm="batch", act="relu", bias=False)
TIMM_TAG = "vit_base_r50_s16_224.orig_in21k"
SKIPS = (512, 256, 64)
"""Channels of the skips, deepest first, at strides 8, 4 and 2."""


class StdConv2d(nn.Conv2d):
    """Convolution with weights standardised per output channel (arXiv:1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        # (w - mean) / sqrt(var + eps) over the inputs of each output channel
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(var + 1e-5), self.bias)


class Bottleneck(nn.Module):
    """Residual bottleneck of standardised convolutions and group norms; projects its shortcut where shapes differ."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = StdConv2d(in_channels, channels, 1, bias=False)
        self.gn1 = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv2 = StdConv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.gn2 = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv3 = StdConv2d(channels, out_channels, 1, bias=False)
        self.gn3 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.projection: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = StdConv2d(in_channels, out_channels, 1, stride, bias=False)
            # One group per channel, and another eps than everywhere else: so it is in the reference.
            self.projection = nn.Sequential(conv, nn.GroupNorm(out_channels, out_channels, eps=1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, out, H / stride, W / stride]."""
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(self.gn3(self.conv3(y)) + self.projection(x))


class ResNet(nn.Module):
    """Three stages of a ResNet-50.

    `units` counts the blocks of each stage. Skips come deepest first, with SKIPS channels.
    """

    def __init__(self, in_channels: int, units: Sequence[int]) -> None:
        super().__init__()
        self.conv = StdConv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.gn = nn.GroupNorm(32, 64, eps=1e-6)
        self.body = nn.ModuleList()
        width = 64
        for i, count in enumerate(units):
            out = 256 * 2**i
            first = Bottleneck(width, out // 4, out, stride=2 if i else 1)
            self.body.append(nn.Sequential(first, *(Bottleneck(out, out // 4, out, 1) for _ in range(count - 1))))
            width = out

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map [B, C, H, W] to [B, 1024, H / 16, W / 16] and the skips."""
        stem = F.relu(self.gn(self.conv(x)))
        quarter = self.body[0](F.max_pool2d(stem, 3, 2))
        # its strided convolution rounds up: the 55 that remain of 224 become 28, an eighth
        eighth = self.body[1](quarter)
        # The unpadded pooling leaves the map one short of a quarter; only the skip is filled up with zeros.
        missing = [x.shape[i] // 4 - quarter.shape[i] for i in (3, 2)]
        return self.body[2](eighth), [eighth, F.pad(quarter, (0, missing[0], 0, missing[1])), stem]


class Encoder(nn.Module):
    """ViT on patches of an image, or on a ResNet's map of it."""

    def __init__(
        self, resnet: ResNet | None, embed: nn.Conv2d, grid: Sequence[int], blocks: nn.ModuleList, dropout: float
    ) -> None:
        super().__init__()
        self.resnet = resnet
        self.embed = embed
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed.out_channels))
        self.dropout = nn.Dropout(dropout)
        self.blocks = blocks
        self.norm = nn.LayerNorm(embed.out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map [B, C, H, W] to [B, hidden, H / 16, W / 16] and the skips, deepest first; patches have none."""
        x, skips = self.patches(x)
        tokens = self.tokens(x)
        for block in self.blocks:
            tokens = block(tokens)
        # and back to a map for the decoder
        return self.norm(tokens).transpose(1, 2).reshape(x.shape), skips

    def patches(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map [B, C, H, W] to embedded patches [B, hidden, H / 16, W / 16] and the skips."""
        x, skips = self.resnet(x) if self.resnet else (x, [])
        return self.embed(x), skips

    def tokens(self, x: Tensor) -> Tensor:
        """Add the positions to a map of patches [B, C, h, w], giving [B, h w, C]."""
        return self.dropout(x.flatten(2).transpose(1, 2) + self.position_embeddings)


class UpBlock(nn.Module):
    """Double the sides, join a skip if there is one, and convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(DECODER, in_channels + skip_channels, out_channels)
        self.conv2 = ConvNormAct(DECODER, out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Map [B, C, H, W] and a skip [B, S, 2 H, 2 W] to [B, out, 2 H, 2 W]."""
        return self.conv2(self.conv1(self.join(x, skip)))

    def join(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Enlarge a map and set the skip beside it."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return x if skip is None else torch.cat([x, skip], 1)


class TransUNet(nn.Module):
    """Encoder, a 3x3 convolution, one UpBlock for each of `channels`, and a head; the first `n_skip` blocks use skips.

    An image of one channel is repeated to the channels of the stem, as the reference does.
    """

    def __init__(self, encoder: Encoder, channels: Sequence[int], n_skip: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_skip = n_skip
        self.stem_channels = (encoder.resnet.conv if encoder.resnet else encoder.embed).in_channels
        self.conv_more = ConvNormAct(DECODER, encoder.embed.out_channels, 512)
        # the deepest skips are the first to be used
        skips = [*SKIPS[:n_skip], *[0] * (len(channels) - n_skip)]
        self.up = nn.ModuleList(map(UpBlock, (512, *channels), skips, channels))
        self.head = DECODER.conv(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to logits [B, K, H, W]."""
        x, skips = self.encoder(x.expand(-1, self.stem_channels, -1, -1))
        x = self.conv_more(x)
        for i, block in enumerate(self.up):
            x = block(x, skips[i] if i < self.n_skip else None)
        return self.head(x)


@register(
    ModelInfo(
        title="TransUNet",
        family="hybrid",
        year=2021,
        paper="2102.04306",
        dims=(2,),
        multiple=16,
        min_size=32,  # at 16 the deepest map is one pixel, which a group norm of single channels refuses
        fixed=True,
        source=("github:Beckschen/TransUNet", "02ef001", "Apache-2.0"),
        params={2: 105277081},
        params_at={2: (3, 9, (224, 224))},
        gflops={2: 58.45},
        activation_mb={2: 426.1},
        notes=(
            "One channel is repeated to three, as in the reference. Position embeddings are learned for the built "
            "patch size, so parameters vary with it. The reference takes squares alone, other shapes are our extension."
        ),
    )
)
def transunet(
    task: TaskShape,
    *,
    resnet_units: Sequence[int] = (3, 4, 9),
    hidden: int = 768,
    mlp: int = 3072,
    heads: int = 12,
    layers: int = 12,
    n_skip: int = 3,
    decoder_channels: Sequence[int] = (256, 128, 64, 16),
    dropout: float = 0.1,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build TransUNet; without `resnet_units` it is a plain ViT on patches of 16 pixels, which has no skips.

    `hidden`, `mlp`, `heads` and `layers` size the ViT. `weights` is a .safetensors or .npz file of TransUNet, of
    Google's R50+ViT or ViT, or of timm; `pretrained` takes that of timm. Raises ModelError if options disagree.
    """
    _check_options(resnet_units, hidden, heads, n_skip, decoder_channels)
    stem_channels = 3 if task.in_channels == 1 else task.in_channels
    blocks = nn.ModuleList(
        TransformerBlock(hidden, MultiHeadAttention(hidden, heads), _vit_mlp(hidden, mlp, dropout), eps=1e-6)
        for _ in range(layers)
    )
    resnet = ResNet(stem_channels, resnet_units) if resnet_units else None
    embed = nn.Conv2d(1024, hidden, 1) if resnet else nn.Conv2d(stem_channels, hidden, PATCH, PATCH)
    grid = [n // PATCH for n in task.patch_size]
    encoder = Encoder(resnet, embed, grid, blocks, dropout)
    model = TransUNet(encoder, decoder_channels, n_skip, task.num_classes)
    state = source_weights(weights, pretrained, TIMM_TAG)
    if state is not None:
        load_matching(model, vit_weights(state, grid))
    return model


def _vit_mlp(hidden: int, mlp: int, dropout: float) -> Mlp:
    module = Mlp(hidden, mlp, dropout)
    for linear in (module.fc1, module.fc2):  # ViT's own initial values
        nn.init.xavier_uniform_(linear.weight)
        nn.init.normal_(linear.bias, std=1e-6)
    return module


def _check_options(
    resnet_units: Sequence[int], hidden: int, heads: int, n_skip: int, decoder_channels: Sequence[int]
) -> None:
    most = len(SKIPS) if resnet_units else 0
    if len(resnet_units) not in (0, 3):
        raise ModelError(f"resnet_units {tuple(resnet_units)}: give three numbers, or none for a plain ViT")
    if not 0 <= n_skip <= most:
        raise ModelError(f"n_skip={n_skip}, but an encoder with resnet_units {tuple(resnet_units)} has {most}")
    if hidden % heads:
        raise ModelError(f"hidden={hidden} does not divide into {heads} heads")
    if len(decoder_channels) != 4:
        raise ModelError(f"decoder_channels {tuple(decoder_channels)}: give four, one for each doubling")
