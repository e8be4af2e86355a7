"""IAUNet: queries that look for one object each in every level of a U-Net's decoder (arXiv:2508.01928)."""

from math import log

import torch
from torch import Tensor, nn

from unetkit.blocks.encoders import TimmEncoder
from unetkit.blocks.gates import SqueezeExcite
from unetkit.blocks.layers import Layers
from unetkit.blocks.queries import Queries, QueryLayer, semantic, sine_places
from unetkit.blocks.unet import check_divides
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

LEVELS = 3  # of the decoder: 1/32, 1/16, 1/8
FLAT = Layers(2)
PRIOR = 0.01  # chance of a class that queries start from


class DecoderBlock(nn.Module):
    """Two depthwise-separable convolutions beside a 1 wide one, then a gate of channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide in (in_channels, channels):
            layers += [FLAT.conv(wide, wide, groups=wide), FLAT.conv(wide, channels, 1)]
            layers += [FLAT.norm(channels), FLAT.act()]
        self.convs = nn.Sequential(*layers)
        self.shortcut = FLAT.conv(in_channels, channels, 1)
        self.gate = SqueezeExcite(channels, reduction=2, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.gate(self.convs(x) + self.shortcut(x))
        return gated


def _convs(channels: int, count: int) -> nn.Sequential:
    layers = [(FLAT.conv(channels, channels), FLAT.norm(channels), FLAT.act()) for _ in range(count)]
    return nn.Sequential(*[layer for group in layers for layer in group])


def with_places(x: Tensor) -> Tensor:
    """Put two channels before a map [B, C, H, W]: how far right and how far down, from -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[2:])
    right, down = columns.expand(x.shape[2:]), rows[:, None].expand(x.shape[2:])
    return torch.cat((torch.stack((right, down)).expand(len(x), -1, -1, -1), x), dim=1)


class PixelDecoder(nn.Module):
    """The way up: maps for queries at 1/32, 1/16 and 1/8 of the image, and features for their masks at 1/4."""

    def __init__(self, skips: tuple[int, ...], channels: int) -> None:
        super().__init__()
        deepest_first = skips[::-1][:LEVELS]
        self.skips = nn.ModuleList(FLAT.conv(width, channels, 1) for width in deepest_first)
        widths = (channels + 2, *[2 * channels + 2] * (LEVELS - 1))
        self.blocks = nn.ModuleList(DecoderBlock(width, channels) for width in widths)
        for part in (self.skips, self.blocks):
            _start_small(part)
        self.masks = nn.ModuleList(_convs(channels, 2) for _ in range(LEVELS))
        self.lateral = nn.Sequential(FLAT.conv(skips[0], channels, 1), FLAT.norm(channels))
        self.features = _convs(channels, 1)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Map the encoder's maps at 1/4 to 1/32 to the levels' maps, the coarsest first, and mask features."""
        x, seen = maps[-1].new_zeros(()), []
        for level, skip in enumerate(self.skips):
            side = skip(maps[-1 - level])
            if level == 0:
                x = self.blocks[0](with_places(side))
                seen.append(self.masks[0](x))
                continue
            above = FLAT.linear(with_places(x), side.shape[2:], aligned=True)
            x = self.blocks[level](torch.cat((above, side), dim=1))
            seen.append(self.masks[level](FLAT.linear(seen[-1], side.shape[2:], aligned=True) + x))
        finest = self.lateral(maps[0])
        return seen, self.features(finest + FLAT.linear(seen[-1], finest.shape[2:]))


def _start_small(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class IAUNet(nn.Module):
    """Encoder, pixel decoder, and a transformer whose queries pass its levels from the coarsest to the finest."""

    def __init__(
        self, encoder: TimmEncoder, num_classes: int, queries: int, decoder_layers: int, channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder, self.num_classes = encoder, num_classes
        self.decoder = PixelDecoder(encoder.channels[-4:], channels)
        steps = range(LEVELS * decoder_layers)
        self.layers = nn.ModuleList(QueryLayer(channels, 8, 8 * channels, dropout) for _ in steps)
        self.start, self.places = nn.Embedding(queries, channels), nn.Embedding(queries, channels)
        for part in (self.start, self.places):
            part.weight._no_weight_decay = True  # type: ignore[attr-defined]  # as published
        self.norm = nn.LayerNorm(channels)
        # a background has no queries: "no object" takes its place
        self.classes = nn.Linear(channels, max(num_classes - 1, 1) + 1)
        self.masks, self.boxes = nn.Linear(channels, channels), nn.Linear(channels, 4)
        for head in (self.classes, self.masks):
            nn.init.normal_(head.weight, std=0.01)
        nn.init.constant_(self.classes.bias, log(PRIOR / (1 - PRIOR)))
        nn.init.zeros_(self.masks.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, K, *S], made of the last layer's queries as `semantic` says."""
        return FLAT.linear(semantic(self.queries(image)[-1], self.num_classes), image.shape[2:])

    def queries(self, image: Tensor) -> list[Queries]:
        """Return what the queries have found after each layer; masks are a quarter of the image's size."""
        seen, features = self.decoder(list(self.encoder(image))[-4:])
        every = torch.arange(self.start.num_embeddings, device=image.device).expand(len(image), -1)
        x, places = self.start(every), self.places(every)
        found = []
        per_level = len(self.layers) // LEVELS
        for number, layer in enumerate(self.layers):
            level = seen[number // per_level]
            where = sine_places(level.shape[2:], level.shape[1], level)
            x = layer(x, places, level.flatten(2).mT, where)
            found.append(self._found(x, features))
        return found

    def _found(self, x: Tensor, features: Tensor) -> Queries:
        x = self.norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.masks(x), features)
        return Queries(self.classes(x), masks, self.boxes(x).sigmoid())


@register(
    ModelInfo(
        title="IAUNet",
        family="hybrid",
        year=2025,
        paper="2508.01928",
        dims=(2,),
        multiple=32,
        learns="queries",
        source=("github.com/SlavkoPrytula/IAUNet", "be77687", "none stated"),
        params={2: 39_297_026},
        params_at={2: (3, 2, (512, 512))},
        gflops={2: 93.11},
        activation_mb={2: 786.9},
        notes="built from the description and the history of the code, of which no checkout is consistent: the decoder "
        "of two layers a level, whose count agrees with the printed 39 M. That code carries two layers more, which "
        "nothing reads; as_published=true does so too: 39363075 parameters. The layer boxes is unused, as in the "
        "published training. Outputs [B, K, *S] are made of the queries: background is where none is",
    )
)
def iaunet(
    task: TaskShape,
    *,
    encoder: str = "resnet50",
    pretrained: bool = False,
    weights: str | None = None,
    queries: int = 100,
    decoder_layers: int = 2,
    channels: int = 256,
    dropout: float = 0.1,
    as_published: bool = False,
) -> nn.Module:
    """IAUNet with a timm encoder; `decoder_layers` are those of the transformer at each of the three levels."""
    if min(queries, decoder_layers) < 1 or channels < 8 or channels % 8:
        raise ModelError(
            f"iaunet: queries={queries}, decoder_layers={decoder_layers}, channels={channels}: give at least 1 of the "
            "first two, and channels in multiples of 8"
        )
    maps = TimmEncoder(encoder, task.in_channels, pretrained=pretrained, weights=weights)
    if maps.divisor != (32, 32) or not all(maps.channels[-4:]):
        raise ModelError(f"iaunet: encoder '{encoder}' has not the maps at 1/4 to 1/32 of the image; choose another")
    check_divides(maps.divisor, task.patch_size)
    model = IAUNet(maps, task.num_classes, queries, decoder_layers, channels, dropout)
    if as_published:
        model.unused = nn.ModuleList([nn.Linear(channels, channels), nn.Linear(channels, 1)])
    return model
