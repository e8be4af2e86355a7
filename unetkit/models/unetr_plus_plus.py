"""UNETR++: blocks that attend over channels and over space with shared queries and keys (arXiv:2212.04497)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import ResidualBlockD
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.unet import Decoder, Encoder, Heads
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

FUSIONS = {"concatenate": True, "sum": False}
PROJECTED = 64
DEEPEST_PROJECTED = 32
CONV_DROPOUT = 0.1


@dataclass(frozen=True)
class Pairing:
    """How the paired blocks of one network are built.

    `separate`: keys and values are projected by weights of their own, not by the same. `fusion` of the two branches:
    each to half the channels and concatenated, or the sum. `convs`: residual blocks behind the attention. `dropout`
    drops attention weights. `scrambled` gives the spatial branch the order of tokens and channels of the reference.
    """

    heads: int
    separate: bool
    fusion: str
    convs: int
    dropout: float
    scrambled: bool


class PairedAttention(nn.Module):
    """Efficient paired attention on tokens [B, N, C]: channels with channels, and tokens with a few projected ones.

    Both share queries and keys; each has values of its own. `projected` is how many of the `tokens` remain.
    """

    def __init__(self, channels: int, tokens: int, projected: int, pairing: Pairing) -> None:
        super().__init__()
        self.pairing = pairing
        concatenate = choose(FUSIONS, pairing.fusion, "fusion")
        self.qkvv = nn.Linear(channels, 4 * channels, bias=False)
        self.project = nn.ModuleList(
            nn.Linear(tokens, projected, bias=concatenate) for _ in range(1 + pairing.separate)
        )
        self.temperature = nn.Parameter(torch.ones(pairing.heads, 1, 1))
        self.temperature2 = nn.Parameter(torch.ones(pairing.heads, 1, 1))
        self.dropout = nn.Dropout(pairing.dropout)
        self.out = nn.ModuleList(nn.Linear(channels, channels // 2) for _ in range(2 * concatenate))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, C] to [B, N, C]."""
        # each [B, heads, C / heads, N]
        q, k, v, v_space = self.qkvv(x).unflatten(-1, (4, self.pairing.heads, -1)).permute(2, 0, 3, 4, 1)
        few_keys, few_values = self.project[0](k), self.project[-1](v_space)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)  # over tokens
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        channel = (self.dropout(weights) @ v).permute(0, 3, 1, 2).flatten(2)  # [B, N, C]
        weights = (q.transpose(-2, -1) @ few_keys * self.temperature2).softmax(-1)
        space = self.dropout(weights) @ few_values.transpose(-2, -1)  # [B, heads, N, C / heads]
        # the reference permutes as if channels came before tokens, as they do in the other branch
        space = (
            space.permute(0, 3, 1, 2).reshape(x.shape) if self.pairing.scrambled else space.transpose(1, 2).flatten(2)
        )
        if not self.out:
            return channel + space
        return torch.cat([self.out[0](space), self.out[1](channel)], -1)


class PairedBlock(nn.Module):
    """Attention on tokens with learned positions, then residual convolutions and a last one beside a shortcut.

    Maps [B, C, *S], with as many voxels in S as `tokens`.
    """

    def __init__(self, layers: Layers, channels: int, tokens: int, projected: int, pairing: Pairing) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = PairedAttention(channels, tokens, projected, pairing)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.convs = nn.Sequential(*(ResidualBlockD(layers, channels, channels) for _ in range(pairing.convs)))
        self.dropout = nn.Dropout1d(CONV_DROPOUT if pairing.dropout else 0.0)
        self.last = layers.conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        tokens = x.flatten(2).transpose(1, 2) + self.pos_embed
        tokens = tokens + self.gamma * self.attention(self.norm(tokens))
        x = tokens.transpose(1, 2).reshape(x.shape)
        # flat, so that whole channels are dropped whatever the number of axes
        return x + self.last(self.dropout(self.convs(x).flatten(2)).reshape(x.shape))


@dataclass(frozen=True)
class PairedStage:
    """Makes the blocks of one level, behind a step down where the stage has a stride."""

    depth: int
    tokens: int
    projected: int
    pairing: Pairing

    def __call__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
        """Return a module from [B, in_channels, *S] to [B, channels, *S / stride]."""
        step: list[nn.Module] = []
        if max(per_axis(stride, layers.dims)) > 1:
            conv = layers.conv(in_channels, channels, stride, stride=stride, padding=0, bias=False)
            # a group per incoming channel, as published, or as many as divide both
            step = [conv, nn.GroupNorm(math.gcd(in_channels, channels), channels)]
        blocks = (PairedBlock(layers, channels, self.tokens, self.projected, self.pairing) for _ in range(self.depth))
        return nn.Sequential(*step, *blocks)


class UnetrPlusPlus(nn.Module):
    """Paired stages down and up, and residual convolutions at full resolution.

    `down` and `up` are the stages below the image, finest first; `widths` start with the image's level.
    """

    def __init__(
        self,
        layers: Layers,
        task: TaskShape,
        widths: Sequence[int],
        strides: Sequence[Size],
        stages: tuple[Sequence[PairedStage], Sequence[PairedStage]],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        down, up = stages
        self.top = ResidualBlockD(layers, task.in_channels, widths[0])
        self.encoder = Encoder(layers, task.in_channels, widths[1:], down, strides=strides, pool=False)
        self.decoder = Decoder(layers.but(up=_enlarge), widths, [1, *strides], [ResidualBlockD, *up], join="sum")
        self.heads = Heads(layers, widths[:-1][:3], task.num_classes, deep_supervision=deep_supervision)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images [B, C, *S] to logits [B, K, *S], or to those of the three finest levels."""
        return self.heads(self.decoder([self.top(x), *self.encoder(x)])[:3])


def _enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    return layers.transposed(in_channels, channels, stride, stride=stride, bias=False)


@register(
    ModelInfo(
        title="UNETR++",
        family="transformer",
        year=2024,
        paper="2212.04497",
        dims=(2, 3),
        multiple=32,
        multiple_by={"steps": "product"},
        fixed=True,
        deep_supervision=True,
        source=("github:Amshaker/unetr_plus_plus", "dcba1c6", "Apache-2.0"),
        params={3: 42951638},
        params_at={3: (1, 14, (64, 128, 128))},
        gflops={3: 94.9},
        activation_mb={3: 2180.0},
        notes=(
            "Positions and token projections are learned for the built patch size. as_published=true permutes the axes "
            "of the spatial branch as the reference does, which mixes tokens with channels and on which its weights "
            "depend. The reference's ACDC network: steps [[1,4,4],2,2,2], convs=2, separate=true; BraTS: steps "
            "[4,2,2,2], fusion=sum. deep_supervision=true adds heads: 42953010 parameters. 2D is our extension, by the "
            "last two numbers of each step."
        ),
    )
)
def unetr_plus_plus(
    task: TaskShape,
    *,
    widths: Sequence[int] = (16, 32, 64, 128, 256),
    steps: Sequence[Size] = ((2, 4, 4), 2, 2, 2),
    depths: Sequence[int] = (3, 3, 3, 3),
    heads: int = 4,
    convs: int = 1,
    separate: bool = False,
    fusion: str = "concatenate",
    dropout: float = 0.15,
    deep_supervision: bool = False,
    as_published: bool = False,
) -> nn.Module:
    """Build UNETR++ with `widths` from the image's level down and the strides `steps` from each level to the next.

    `depths` are the paired blocks of the encoder's levels, finest first; the decoder has the first of them throughout.
    Pairing says what `separate`, `fusion`, `convs` and `dropout` are; without dropout convolutions drop nothing either.
    Raises ModelError if the options contradict each other.
    """
    _check_options(widths, steps, depths, heads, dropout)
    pairing = Pairing(heads, separate, fusion, convs, dropout, as_published)
    strides = [tuple(s)[-task.dims :] if isinstance(s, Sequence) else (s,) * task.dims for s in steps]
    tokens, size = [], task.patch_size
    for stride in strides:
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        tokens.append(math.prod(size))
    make = partial(PairedStage, pairing=pairing)
    projected = [PROJECTED] * (len(strides) - 1) + [DEEPEST_PROJECTED]
    down = [make(d, n, p) for d, n, p in zip(depths, tokens, projected, strict=True)]
    up = [make(depths[0], n, PROJECTED) for n in tokens[:-1]]
    layers = Layers(task.dims, norm="batch", act="leaky_relu", bias=False)
    return UnetrPlusPlus(layers, task, widths, strides, (down, up), deep_supervision)


def _check_options(
    widths: Sequence[int], steps: Sequence[Size], depths: Sequence[int], heads: int, dropout: float
) -> None:
    if not len(widths) - 1 == len(steps) == len(depths) or len(steps) < 2:
        raise ModelError(
            f"widths {tuple(widths)}, steps {tuple(steps)} and depths {tuple(depths)}: give a step and a depth "
            "for each level below the first, 2 at least"
        )
    for width in widths[1:]:
        if heads < 1 or width % heads or width % 2:
            raise ModelError(
                f"width {width} does not divide into {heads} heads of two branches; change heads or widths"
            )
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout {dropout} is a probability, 0 or more and below 1")
