"""UNet++: every level is refined by all levels below it, node by node (arXiv:1807.10165, 1912.05074).

Node X(i, j) stands at level i, 0 the finest, in column j; column 0 is the encoder. It sees all earlier nodes of its
level and the enlarged X(i + 1, j - 1). The last diagonal, i + j = depth, ends in the output.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import ConvStack
from unetkit.blocks.encoders import TimmEncoder, encoder_for
from unetkit.blocks.init import he_init, smp_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Encoder, Heads, UNet, check_divides, match
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

DEFAULT = "paper"
ORDERS = {
    "up_first": lambda up, nodes: [up, *nodes],
    "up_last": lambda up, nodes: [*nodes, up],
    "newest_first": lambda up, nodes: [up, *reversed(nodes)],
}
"""Order of the concatenation; the nodes of a level come by column, the encoder's first."""


class NestedDecoder(nn.Module):
    """All nodes of UNet++ over an encoder's maps [B, C, *S], finest first; an encoder map of 0 channels is None.

    Nodes have the channels of their level, those of the last diagonal `last`, finest first. `order` is a key of
    ORDERS. Returns the nodes of level 0, last column first; `channels` are theirs. A level 0 without an encoder map
    has the last node only; earlier columns then end at the finest level that has a map.
    """

    def __init__(
        self,
        layers: Layers,
        channels: Sequence[int],
        strides: Sequence[Size],
        *,
        last: Sequence[int] | None = None,
        order: str = "up_first",
    ) -> None:
        super().__init__()
        self.depth = len(channels) - 1
        self.order = order
        # timm encoders have no map at full size, some none at half
        self.top = next(i for i, c in enumerate(channels) if c)
        widths = {(i, 0): c for i, c in enumerate(channels)}
        self.ups, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        self.nodes = [(i, j) for j in range(1, self.depth + 1) for i in self._levels(j)]
        for i, j in self.nodes:
            # X(i, j) = H([X(i, 0), ..., X(i, j - 1), U(X(i + 1, j - 1))]), equation 1 of the paper
            below = widths[i + 1, j - 1]
            widths[i, j] = last[i] if last and i + j == self.depth else channels[i]
            wanted = channels[i] or widths[i, j]
            joined = layers.up_channels(below, wanted) + sum(widths.get((i, k), 0) for k in range(j))
            self.ups[f"{i}_{j}"] = layers.up(below, wanted, strides[i + 1])
            self.blocks[f"{i}_{j}"] = ConvStack(layers, joined, widths[i, j])
        self.outputs = [(0, self.depth), *((self.top, j) for j in range(self.depth - self.top - (not self.top), 0, -1))]
        self.channels = tuple(widths[node] for node in self.outputs)

    def _levels(self, column: int) -> range:
        """Levels of a column: without an encoder map, only the last diagonal has a node."""
        deepest = self.depth - column
        return range(deepest, min(self.top, deepest) - 1, -1)

    def forward(self, maps: Sequence[Tensor | None], column: int | None = None) -> list[Tensor]:
        """Return the last nodes of all columns; or, computing nothing beside what it needs, that of one `column`."""
        outputs = self.outputs if column is None else [node for node in self.outputs if node[1] == column]
        reach = max(map(sum, outputs))
        found = {(i, 0): m for i, m in enumerate(maps) if m is not None}
        for i, j in self.nodes:
            if i + j > reach:
                continue
            up = self.ups[f"{i}_{j}"](found[i + 1, j - 1])
            earlier = [found[i, k] for k in range(j) if (i, k) in found]
            if earlier:
                up, _ = match(up, earlier[0])  # nodes of a level are of one size
            found[i, j] = self.blocks[f"{i}_{j}"](torch.cat(ORDERS[self.order](up, earlier), 1))
        return [found[node] for node in outputs]


class NestedUNet(UNet):
    """A UNet++ that can be cut to its first columns after training: the paper's pruning."""

    decoder: NestedDecoder
    heads: Heads

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of columns that it can be cut to: all that have a head of their own that was trained."""
        whole = self.decoder.depth
        return tuple(range(1, whole + 1)) if self.heads.deep_supervision else (whole,)

    def at_depth(self, depth: int) -> nn.Module:
        """Return the network of the first `depth` columns, which shares this one's weights and returns one map.

        Raises ModelError for a depth that it cannot be cut to.
        """
        if depth not in self.depths:
            reason = "" if self.heads.deep_supervision else " (without deep supervision columns have no heads)"
            raise ModelError(f"depth={depth}: it can be cut to {', '.join(map(str, self.depths))} columns{reason}")
        return Columns(self, depth)


class Columns(nn.Module):
    """The first columns of a UNet++; a map that ends at a coarser level is enlarged to the size of the input."""

    def __init__(self, whole: NestedUNet, depth: int) -> None:
        super().__init__()
        number, output = next((n, node) for n, node in enumerate(whole.decoder.outputs) if node[1] == depth)
        self.reach, self.column = sum(output), depth
        self.encoder, self.head = copy(whole.encoder), whole.heads.convs[number]
        self.decoder = copy(whole.decoder)
        # what is not used is not kept either: a shallow copy shares the weights and leaves the whole as it was
        kept = {f"{i}_{j}" for i, j in self.decoder.nodes if i + j <= self.reach}
        self.decoder._modules = {
            part: nn.ModuleDict({key: module for key, module in getattr(whole.decoder, part).items() if key in kept})
            for part in ("ups", "blocks")
        }
        if isinstance(whole.encoder, Encoder):
            self.encoder._modules = {"stages": whole.encoder.stages[: self.reach + 1]}

    def forward(self, x: Tensor) -> Tensor:
        maps = self.decoder(self.encoder(x, self.reach + 1), self.column)
        logits: Tensor = self.head(maps[0])
        if logits.shape[2:] == x.shape[2:]:
            return logits
        return F.interpolate(logits, x.shape[2:], mode="bilinear")  # only on timm encoders, which are for 2D


@dataclass(frozen=True)
class Variant:
    """What one published UNet++ does differently.

    `down` are changes of the `Layers` on the encoder's side; `last` the channels of the last node, if not those of
    its level; `heads` options of Heads; `init` those of he_init, None for torch's own starting weights.
    """

    widths: tuple[int, ...]
    layers: dict[str, Any]
    down: dict[str, Any] = field(default_factory=dict)
    order: str = "up_first"
    pool: bool = True
    last: int | None = None
    heads: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] | None = None


def _bare(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    """Enlarge by a transposed convolution without bias."""
    return layers.transposed(in_channels, channels, stride, stride=stride, bias=False)


def _overlapping(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    """Enlarge by a transposed convolution twice as wide as its stride."""
    return layers.transposed(in_channels, channels, 4, stride=stride, padding=1)


VARIANTS = {
    "paper": Variant((32, 64, 128, 256, 512), {"norm": "none", "dropout": 0.5}, init={"zero_bias": True}),
    "zju": Variant(
        (64, 128, 256, 512, 1024),
        {"norm": "none", "up": _overlapping},
        down={"norm": "batch"},
        heads={"mean": True},
        init={"norm_std": 0.02},
    ),
    "nnunet": Variant(
        (32, 64, 128, 256, 320, 320),
        {"norm": "instance", "act": "leaky_relu", "up": _bare},
        order="up_last",
        pool=False,
        heads={"always": True, "bias": False},
        init={"slope": 0.01, "zero_bias": True},
    ),
    "monai": Variant(
        (32, 32, 64, 128, 256),
        {"norm": "instance", "act": ("leaky_relu", {"negative_slope": 0.1, "inplace": True})},
        order="up_last",
        last=32,
        heads={"always": True},
    ),
}


def _on_encoder(task: TaskShape, encoder: TimmEncoder, deep_supervision: bool) -> nn.Module:
    """Join a timm encoder to nested nodes as segmentation_models.pytorch does."""
    layers = Layers(task.dims, bias=False, up="nearest")
    decoder = NestedDecoder(
        layers, encoder.channels, encoder.strides, last=encoder.decoder_widths, order="newest_first"
    )
    heads = Heads(layers, decoder.channels, task.num_classes, deep_supervision=deep_supervision, kernel=3)
    smp_init(decoder, heads)
    return NestedUNet(encoder, decoder, heads, encoder.divisor)


def _own(task: TaskShape, chosen: Variant, widths: Sequence[int], dropout: float | None, supervised: bool) -> nn.Module:
    changes = chosen.layers if dropout is None else {**chosen.layers, "dropout": dropout}
    layers = Layers(task.dims, **changes)
    encoder = Encoder(layers.but(**chosen.down), task.in_channels, widths, ConvStack, pool=chosen.pool)
    last = None if chosen.last is None else (chosen.last, *widths[1:-1])
    decoder = NestedDecoder(layers, widths, encoder.strides, last=last, order=chosen.order)
    heads = Heads(layers, decoder.channels, task.num_classes, deep_supervision=supervised, **chosen.heads)
    divisor = (2 ** (len(widths) - 1),) * task.dims
    check_divides(divisor, task.patch_size)
    model = NestedUNet(encoder, decoder, heads, divisor)
    if chosen.init is not None:
        he_init(model, **chosen.init)
    return model


@register(
    ModelInfo(
        title="UNet++",
        family="cnn",
        year=2018,
        paper="1807.10165",
        dims=(2, 3),
        multiple=16,
        multiple_by={"encoder": 32, "depth": 1, "widths": 1, "variant": {"nnunet": 32}},
        deep_supervision=True,
        source=("github:MrGiovanni/UNetPlusPlus", "2659ddc", "ASU, non-commercial"),
        params={2: 9041601},
        params_at={2: (1, 1, (96, 96))},
        gflops={2: 8.367},
        activation_mb={2: 78.82},
        notes="variants paper (the default, no norm), zju, nnunet, monai; with a timm encoder (timm's features_only, "
        "known as tu- elsewhere) the decoder is that of segmentation_models.pytorch (2D, sides multiples of 32); "
        "without deep supervision only the heads that the reference has are built, weights load either way",
    )
)
def unetpp(
    task: TaskShape,
    *,
    variant: str = DEFAULT,
    widths: Sequence[int] | None = None,
    depth: int | None = None,
    dropout: float | None = None,
    average: bool = False,
    encoder: str | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build a UNet++ of `widths` channels per level, finest first, or on a timm `encoder` instead.

    `depth` builds the sub-network of that many columns, the paper's L1 to L4. `average` returns the mean of
    all columns' heads, the paper's accurate mode, instead of the last column's. With deep supervision all outputs
    are of full size, that of the last column first; on an encoder only the first is. Raises ModelError for an
    unknown variant or options that do not go together, ShapeError if the patch does not divide by the strides.
    """
    own = {"variant": variant != DEFAULT, "widths": widths, "depth": depth, "dropout": dropout, "average": average}
    network = encoder_for(task, encoder, pretrained=pretrained, weights=weights, unused=own)
    if network is not None:
        return _on_encoder(task, network, deep_supervision)
    chosen = choose(VARIANTS, variant, "variant")
    if average and deep_supervision:
        raise ModelError("average makes one output of all heads, deep_supervision keeps them apart; drop one of them")
    if average:
        chosen = replace(chosen, heads={**chosen.heads, "mean": True})
    channels = tuple(widths or chosen.widths)
    if depth is not None and not 1 <= depth < len(channels):
        raise ModelError(f"depth={depth}: {len(channels)} widths allow 1 to {len(channels) - 1}")
    return _own(task, chosen, channels[: depth and depth + 1], dropout, deep_supervision)
