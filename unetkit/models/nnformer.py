"""nnFormer: window attention between convolutions, and a decoder that attends to its skips (arXiv:2109.03201)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import DropPath, Mlp, WindowAttention
from unetkit.blocks.checks import check_rate
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.mix_transformer import OnChannels
from unetkit.blocks.swin import Level, rising
from unetkit.blocks.unet import Heads
from unetkit.errors import ModelError, ShapeError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

MLP_RATIO = 4


@dataclass(frozen=True)
class Step:
    """The way from a level of sides `size` to the next, each side divided by its `stride`, 1 or 2, and rounded down."""

    size: tuple[int, ...]
    stride: tuple[int, ...]

    def below(self) -> tuple[int, ...]:
        """Return the sides of the next level."""
        return tuple(n // s for n, s in zip(self.size, self.stride, strict=True))

    def down(self, layers: Layers, channels: int) -> nn.Module:
        """Return what maps [B, *S, C] to the next level with twice the channels."""
        kernel = [3 if s > 1 else 1 for s in self.stride]
        # without a border an odd side n gives (n - 1) / 2, with one an even side gives n / 2
        padding = tuple(int(k > 1 and n % 2 == 0) for k, n in zip(kernel, self.size, strict=True))
        conv = layers.conv(channels, 2 * channels, kernel, stride=self.stride, padding=padding)
        return nn.Sequential(nn.GELU(), nn.LayerNorm(channels), OnChannels(conv))

    def up(self, layers: Layers, channels: int) -> nn.Module:
        """Return the way back: to [B, *S, channels] from twice as many."""
        rest = tuple(n % s for n, s in zip(self.size, self.stride, strict=True))
        conv = layers.transposed(2 * channels, channels, self.stride, stride=self.stride, output_padding=rest)
        return nn.Sequential(nn.LayerNorm(2 * channels), OnChannels(conv))


class PatchConvs(nn.Sequential):
    """Turn an image [B, C, *S] into patches [B, *S / patch, channels] by four convolutions, two of them strided."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, patch: Sequence[int]) -> None:
        half, first = channels // 2, [min(p, 2) for p in patch]
        rest = [p // f for p, f in zip(patch, first, strict=True)]
        parts: list[nn.Module] = []
        for before, after, stride in ((in_channels, half, first), (half, half, 1), (half, channels, rest)):
            parts += [OnChannels(layers.conv(before, after, stride=stride)), nn.GELU(), nn.LayerNorm(after)]
        super().__init__(*parts, OnChannels(layers.conv(channels, channels)), nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1))


class SkipProjection(nn.Module):
    """Queries as they come, keys and values from the skip: [..., 2 C] of both to [..., 3 C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kv = nn.Linear(channels, 2 * channels)

    def forward(self, both: Tensor) -> Tensor:
        query, skip = both.chunk(2, -1)
        return torch.cat([query, self.kv(skip)], -1)


class SkipBlock(nn.Module):
    """Let the enlarged map attend to the skip within windows, beside the sum of both; then an MLP."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(level.channels)
        self.attn = WindowAttention(level.channels, level.heads, level.window)
        # the reference projects no queries
        self.attn.qkv = SkipProjection(level.channels)  # type: ignore[assignment]
        self.norm2 = nn.LayerNorm(level.channels)
        self.mlp = Mlp(level.channels, level.hidden)
        self.drop_path = DropPath(level.drop_path[0])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map two maps [B, *S, C] to one."""
        both = torch.cat([self.norm1(x), self.norm1(skip)], -1)
        x = x + skip + self.drop_path(self.attn(both))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class NnFormer(nn.Module):
    """Window attention down and up. `down` and `up` are the levels of each way, `steps` lie between, finest first."""

    def __init__(
        self, layers: Layers, embed: nn.Module, steps: Sequence[Step], down: Sequence[Level], up: Sequence[Level]
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(nn.Sequential(*level.blocks()) for level in down)
        self.norms = nn.ModuleList(nn.LayerNorm(level.channels) for level in down)
        self.downs = nn.ModuleList(s.down(layers, level.channels) for s, level in zip(steps, down, strict=False))
        self.ups = nn.ModuleList(s.up(layers, level.channels) for s, level in zip(steps, up, strict=True))
        self.skips = nn.ModuleList(SkipBlock(level) for level in up)
        self.up_blocks = nn.ModuleList(nn.Sequential(*level.blocks()[1:]) for level in up)
        self.heads: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images [B, C, *S] to logits [B, K, *S], or to those of all levels but the deepest."""
        x = self.embed(x)
        maps = []
        for i, blocks in enumerate(self.blocks):
            x = blocks(self.downs[i - 1](x) if i else x)
            maps.append(self.norms[i](x))
        x, found = maps.pop(), list[Tensor]()
        for i in reversed(range(len(maps))):
            x = self.up_blocks[i](self.skips[i](self.ups[i](x), maps[i]))
            found.insert(0, x.movedim(-1, 1))
        return self.heads(found)


def _windows(windows: Sequence[Size], sizes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the sides of each level's windows: a number shrinks to the map's least side, numbers per axis to each."""
    return [
        (min(w, *size),) * len(size)
        if isinstance(w, int)
        else tuple(min(own, n) for own, n in zip(w[-len(size) :], size, strict=True))
        for w, size in zip(windows, sizes, strict=True)
    ]


def _aliased_index(window: Sequence[int]) -> Tensor:
    """Number offsets within a window as the reference does: its factor for the first axis lets offsets collide."""
    factors = (3 * window[-1] - 1, 2 * window[-1] - 1, 1)[-len(window) :]
    places = torch.cartesian_prod(*(torch.arange(w) for w in window)).reshape(-1, len(window))
    offsets = places[:, None] - places[None] + torch.tensor(window) - 1
    return (offsets * torch.tensor(factors)).sum(-1)


@register(
    ModelInfo(
        title="nnFormer",
        family="transformer",
        year=2023,
        paper="2109.03201",
        dims=(2, 3),
        multiple=4,
        multiple_by={"patch": "axes"},
        min_size=32,
        min_size_by={"steps": 2},
        fixed=True,
        deep_supervision=True,
        source=("github:282857341/nnFormer", "d48aaeb", "MIT"),
        params={3: 149538086},
        params_at={3: (1, 14, (64, 128, 128))},
        gflops={3: 423.7},
        activation_mb={3: 3112.0},
        notes=(
            "deep_supervision=true adds heads: 150054210 parameters. The reference numbers relative positions so that "
            "different offsets share a bias, and its ACDC network masks no shifted window; as_published=true and "
            "masked=false do so too. Its ACDC network: embed_dim=96, heads=[3,6,12,24], patch=[1,4,4], "
            "steps=[[1,2,2],2,2], windows=[[3,5,5],[3,5,5],[7,10,10],[3,5,5]]; its BraTS network: embed_dim=96, "
            "heads=[3,6,12,24], decoder_heads=[6,12,24], patch=[4,4,4]. 2D is our extension, by the last two numbers "
            "of what is given per axis."
        ),
    )
)
def nnformer(
    task: TaskShape,
    *,
    embed_dim: int = 192,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (6, 12, 24, 48),
    decoder_heads: Sequence[int] | None = None,
    patch: Sequence[int] = (2, 4, 4),
    steps: Sequence[Size] = (2, 2, 2),
    windows: Sequence[Size] = (4, 4, 8, 4),
    drop_path: float = 0.2,
    masked: bool = True,
    deep_supervision: bool = False,
    as_published: bool = False,
) -> nn.Module:
    """Build nnFormer with `depths` blocks, `heads` and `windows` per level, finest first, and `steps` between levels.

    `embed_dim` channels are doubled from level to level; the decoder has `decoder_heads`, by default the encoder's.
    `patch` sides are 1, 2 or 4. Without `masked`, tokens that a shift brings together see each other. `drop_path` is
    the rate of the last block of each way. Raises ModelError if the options contradict each other.
    """
    own = heads[:-1] if decoder_heads is None else decoder_heads
    _check_options(embed_dim, (depths, heads, windows, (0, *steps), (0, *own)), patch, drop_path)
    layers, patch = Layers(task.dims), tuple(patch)[-task.dims :]
    way = _way(tuple(n // p for n, p in zip(task.patch_size, patch, strict=True)), steps)
    sides = _windows(windows, [*(step.size for step in way), way[-1].below()])
    widths = [embed_dim * 2**i for i in range(len(depths))]
    down = [
        Level(width, count, side, MLP_RATIO * width, rates)
        for width, count, side, rates in zip(widths, heads, sides, rising(drop_path, depths), strict=True)
    ]
    # the way up goes from the deepest level to the finest, so the rates rise in that direction
    up_rates = rising(drop_path, depths[-2::-1])[::-1]
    up = [replace(level, heads=count, drop_path=r) for level, count, r in zip(down, own, up_rates, strict=False)]
    model = NnFormer(layers, PatchConvs(layers, task.in_channels, embed_dim, patch), way, down, up)
    model.heads = _heads(layers, widths[:-1], task.num_classes, patch, deep_supervision)
    for part in (m for m in model.modules() if isinstance(m, WindowAttention)):
        part.masked = masked
        if as_published:
            part.index.copy_(_aliased_index(part.window))
    return model


def _way(size: tuple[int, ...], strides: Sequence[Size]) -> list[Step]:
    """Return the steps down from a level of sides `size`. Raises ShapeError if nothing is left at the end."""
    way = []
    for stride in strides:
        own = per_axis(stride, len(size)) if isinstance(stride, int) else tuple(stride)[-len(size) :]
        way.append(Step(size, own))
        size = way[-1].below()
    if min(size) < 1:
        raise ShapeError(f"steps {tuple(strides)} leave nothing of {way[0].size} patches; give a larger patch_size")
    return way


def _heads(layers: Layers, channels: Sequence[int], classes: int, patch: tuple[int, ...], every: bool) -> nn.Module:
    """Return heads that enlarge each level by the patch; those below the finest only if `every`."""
    heads = Heads(layers, channels, classes, deep_supervision=every)
    built = channels[: len(heads.convs)]
    heads.convs = nn.ModuleList(layers.transposed(c, classes, patch, stride=patch) for c in built)
    return heads


def _check_options(
    embed_dim: int,
    per_level: tuple[Sequence[int], Sequence[int], Sequence[Size], Sequence[Size], Sequence[int]],
    patch: Sequence[int],
    drop_path: float,
) -> None:
    depths, heads, windows, steps, decoder_heads = per_level
    if len({len(p) for p in per_level}) > 1 or len(depths) < 2:
        raise ModelError(
            f"depths {tuple(depths)}, heads {tuple(heads)} and windows {tuple(windows)} need one entry per level, 2 at "
            f"least; steps {tuple(steps[1:])} and decoder_heads {tuple(decoder_heads[1:])} one less"
        )
    for i, counts in enumerate(zip(heads, (*decoder_heads[1:], 1), strict=True)):
        if any(count < 1 or embed_dim * 2**i % count for count in counts):
            raise ModelError(f"{embed_dim * 2**i} channels at level {i} do not divide into {max(counts)} heads")
    if min(depths) < 1 or min(_numbers(windows)) < 1:
        raise ModelError(f"depths {tuple(depths)} and windows {tuple(windows)} are 1 or more")
    if {*patch} - {1, 2, 4} or {*_numbers(steps[1:])} - {1, 2}:
        raise ModelError(f"patch {tuple(patch)} has sides 1, 2 or 4, steps {tuple(steps[1:])} are 1 or 2")
    check_rate(drop_path)


def _numbers(sizes: Sequence[Size]) -> list[int]:
    return [n for size in sizes for n in ((size,) if isinstance(size, int) else size)]
