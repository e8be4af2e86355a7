"""UNet 3+: every decoder map is made from all scales, of encoder and decoder, side by side (arXiv:2004.08790)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct, ConvStack
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.unet import Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512, 1024)
NORM_STD = 0.02


class FullScaleNode(nn.Module):
    """One decoder level: a map of each scale, brought to this one and to `width` channels, joined and mixed.

    `channels` are those of the maps to expect, finest first.
    """

    def __init__(self, layers: Layers, channels: Sequence[int], level: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for source, c in enumerate(channels):
            conv = ConvNormAct(layers, c, width)
            if source < level:
                self.branches.append(nn.Sequential(layers.pool(2 ** (level - source)), conv))
            elif source == level:
                self.branches.append(conv)
            else:
                self.branches.append(nn.Sequential(layers.up(c, c, 2 ** (source - level)), conv))
        joined = width * len(channels)
        self.mix = ConvNormAct(layers, joined, joined)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.mix(torch.cat([branch(x) for branch, x in zip(self.branches, maps, strict=True)], 1))


class FullScaleDecoder(nn.Module):
    """A node per level but the deepest; finer scales come from the encoder, coarser ones from the nodes below."""

    def __init__(self, layers: Layers, channels: Sequence[int], width: int) -> None:
        super().__init__()
        levels = len(channels)
        made = width * levels
        # the deepest map of the encoder is used as if it were a node's
        self.nodes = nn.ModuleList(
            FullScaleNode(layers, (*channels[: i + 1], *[made] * (levels - i - 2), channels[-1]), i, width)
            for i in range(levels - 1)
        )
        self.channels = (*[made] * (levels - 1), channels[-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = list(maps)
        for level in reversed(range(len(self.nodes))):
            found[level] = self.nodes[level](found)
        return found


class Presence(nn.Module):
    """Say whether the deepest map [B, C, *S] holds any object at all: 0 or 1 for each sample, [B].

    The gradient is that of the probability behind the verdict; none if `as_published`, as an argmax has none.
    """

    def __init__(self, layers: Layers, channels: int, as_published: bool) -> None:
        super().__init__()
        self.as_published = as_published
        self.scores = nn.Sequential(nn.Dropout(0.5), layers.conv(channels, 2, 1))

    def forward(self, deepest: Tensor) -> Tensor:
        scores = torch.sigmoid(self.scores(deepest).flatten(2).amax(2))
        verdict = scores.argmax(1).to(scores.dtype)
        if self.as_published:
            return verdict
        probability = scores.softmax(1)[:, 1]
        return verdict + probability - probability.detach()


class FullSizeHeads(nn.Module):
    """Logits of all decoder maps, enlarged to the size of the finest and multiplied by the verdict of `presence`."""

    def __init__(self, layers: Layers, heads: Heads, presence: Presence | None) -> None:
        super().__init__()
        self.layers, self.heads, self.presence = layers, heads, presence

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        found = self.heads(maps)
        logits = found if isinstance(found, tuple) else (found,)
        full = (logits[0], *(self.layers.linear(x, logits[0].shape[2:]) for x in logits[1:]))
        if self.presence is not None:
            verdict = self.presence(maps[-1]).view(-1, *[1] * (maps[0].ndim - 1))
            full = tuple(x * verdict for x in full)
        return full if isinstance(found, tuple) else full[0]


@register(
    ModelInfo(
        title="UNet 3+",
        family="cnn",
        year=2020,
        paper="2004.08790",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        deep_supervision=True,
        source=("github:ZJUGiveLab/UNet-Version", "8ecd067", "none stated"),
        params={2: 26971777},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 395.3},
        activation_mb={2: 1394.0},
        notes="logits, where the public code ends in a sigmoid; classification_guided=true blanks images judged empty; "
        "the gradient that then reaches the judge, as if its probability were the verdict, is an addition of unetkit: "
        "as_published=true keeps the public argmax, from which the judge learns nothing",
    )
)
def unet3p(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    branch_width: int | None = None,
    classification_guided: bool = False,
    as_published: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build a UNet 3+ of `widths` channels per level, finest first; each scale gives `branch_width` to a decoder map.

    Without `branch_width` that is the first width. Raises ModelError for options that do not go together or fewer
    than 2 widths.
    """
    channels = tuple(widths or WIDTHS)
    if len(channels) < 2:
        raise ModelError(f"widths {list(channels)}: one level has no scales to join; give 2 or more")
    if as_published and not classification_guided:
        raise ModelError(
            "as_published=true is about the classification alone; add classification_guided=true or drop it"
        )
    layers = Layers(task.dims, up="linear")
    encoder = Encoder(layers, task.in_channels, channels, ConvStack)
    decoder = FullScaleDecoder(layers, channels, branch_width or channels[0])
    heads = Heads(layers, decoder.channels, task.num_classes, deep_supervision=deep_supervision, kernel=3)
    presence = Presence(layers, channels[-1], as_published) if classification_guided else None
    model = UNet(encoder, decoder, FullSizeHeads(layers, heads, presence))
    he_init(model, norm_std=NORM_STD)
    return model
