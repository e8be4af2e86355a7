"""Swin-UMamba: VMamba as encoder, under a convolutional decoder or a light one of its own blocks (arXiv:2402.03302)."""

from collections.abc import Sequence

from torch import Tensor, nn

from unetkit.blocks.checks import check_levels, check_rate
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchExpand
from unetkit.blocks.swin import PATCH, Join
from unetkit.blocks.unet import Heads
from unetkit.blocks.unetr import UnetrDecoder
from unetkit.blocks.vss import VssEncoder, VssStage, falling
from unetkit.models._pretrained import source_weights
from unetkit.models._vss_weights import load_vmamba
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

DEPTHS = (2, 2, 9, 2)
STEM = 7
HALVING = 2
SUPERVISED = 4
"""Outputs of deep supervision."""
BLOCKS_UP = 2
SLOPE = 0.01


class SwinUMamba(nn.Module):
    """A stem to half the resolution, VMamba from there on, and a decoder of residual blocks that sees the image too."""

    def __init__(self, stem: nn.Module, vssm_encoder: VssEncoder, decoder: UnetrDecoder, heads: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.vssm_encoder = vssm_encoder
        self.decoder = decoder
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        half = self.stem(x)
        _, maps = self.vssm_encoder(half)
        found = self.decoder([x, half, *(y.movedim(-1, 1) for y in maps)])
        return self.heads(found[:SUPERVISED])


class VssDecoder(nn.Module):
    """From the deepest map up: expand, join the encoder's map, cross scans; at the end back to the image's sides."""

    def __init__(self, layers: Layers, channels: Sequence[int], drop_path: float) -> None:
        super().__init__()
        widths = channels[-2::-1]
        self.expand_layers = nn.ModuleList(PatchExpand(layers.dims, 2 * width, width, 2) for width in widths)
        self.concat_back_dim = nn.ModuleList(Join(width) for width in widths)
        self.stages = nn.ModuleList(
            VssStage(layers, width, rates)
            for width, rates in zip(widths, falling(drop_path, [BLOCKS_UP] * len(widths)), strict=True)
        )
        self.last = PatchExpand(layers.dims, channels[0], channels[0], PATCH)
        self.channels = (channels[0], *channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map maps [B, *S, C] to those of the decoder, [B, C, *S], finest first."""
        *skips, x = maps
        found: list[Tensor] = []
        for expand, join, stage, skip in zip(
            self.expand_layers, self.concat_back_dim, self.stages, reversed(skips), strict=True
        ):
            x = stage(join(expand(x), skip))
            found.insert(0, x)
        return [y.movedim(-1, 1) for y in (self.last(x), *found)]


class SwinUMambaD(nn.Module):
    """VMamba and a decoder of its blocks."""

    def __init__(self, vssm_encoder: VssEncoder, decoder: VssDecoder, heads: nn.Module) -> None:
        super().__init__()
        self.vssm_encoder = vssm_encoder
        self.decoder = decoder
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        _, maps = self.vssm_encoder(x)
        return self.heads(self.decoder(maps))


@register(
    ModelInfo(
        title="Swin-UMamba",
        family="ssm",
        year=2024,
        paper="2402.03302",
        dims=(2, 3),
        multiple=32,
        multiple_by={"depths": 4},
        deep_supervision=True,
        source=("github:JiarunLiu/Swin-UMamba", "2c1f72e", "Apache-2.0"),
        params={2: 59889368},
        params_at={2: (1, 14, (224, 224))},
        gflops={2: 64.34},
        activation_mb={2: 515.0},
        notes="Without deep supervision the lower heads are built but unused. weights= takes VMamba-Tiny, whose patch "
        "embedding has no place here. 3D is our extension.",
    )
)
def swin_umamba(
    task: TaskShape,
    *,
    width: int = 96,
    depths: Sequence[int] = DEPTHS,
    drop_path: float = 0.2,
    deep_supervision: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Build Swin-UMamba with `width` channels and `depths` blocks in the stages of VMamba.

    `drop_path` is the rate of the deepest block. `weights` is a .safetensors or .npz file of VMamba. Raises ModelError
    if the options contradict each other.
    """
    check_levels(depths=depths)
    check_rate(drop_path)
    layers = Layers(task.dims, norm="instance")
    half = width // HALVING
    encoder = VssEncoder(layers, half, width, depths, patch=HALVING, drop_path=drop_path)
    stem = nn.Sequential(layers.conv(task.in_channels, half, STEM, stride=2), layers.norm(half))
    before = (task.in_channels, half, *encoder.channels[:-1])
    decoder = UnetrDecoder(task.dims, before, (half, *encoder.channels, encoder.channels[-1]))
    heads = Heads(
        layers, decoder.channels[:SUPERVISED], task.num_classes, deep_supervision=deep_supervision, always=True
    )
    model = SwinUMamba(stem, encoder, decoder, heads)
    state = source_weights(weights)
    if state is not None:
        load_vmamba(encoder, state, stem=False)
    return model


@variant(
    swin_umamba,
    title="Swin-UMamba-D",
    params={2: 27497720},
    gflops={2: 15.26},
    activation_mb={2: 443.5},
    new="VMamba as encoder under a light decoder of its own blocks",
    notes="Without deep supervision the lower heads are built but unused. weights= takes VMamba-Tiny. 3D is our "
    "extension.",
)
def swin_umamba_d(
    task: TaskShape,
    *,
    width: int = 96,
    depths: Sequence[int] = DEPTHS,
    drop_path: float = 0.2,
    deep_supervision: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Build Swin-UMamba-D with `width` channels and `depths` blocks in the stages of VMamba.

    `drop_path` is the rate of the deepest blocks of encoder and decoder. `weights` is a .safetensors or .npz file of
    VMamba. Raises ModelError if the options contradict each other.
    """
    check_levels(depths=depths)
    check_rate(drop_path)
    layers = Layers(task.dims)
    encoder = VssEncoder(layers, task.in_channels, width, depths, patch=PATCH, drop_path=drop_path)
    decoder = VssDecoder(layers, encoder.channels, drop_path)
    heads = Heads(layers, decoder.channels, task.num_classes, deep_supervision=deep_supervision, always=True)
    model = SwinUMambaD(encoder, decoder, heads)
    he_init(model, SLOPE, zero_bias=True)
    state = source_weights(weights)
    if state is not None:
        load_vmamba(encoder, state)
    return model
