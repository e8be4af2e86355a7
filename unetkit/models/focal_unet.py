"""Focal-UNet: a U-Net whose tokens are modulated by contexts of growing reach, without attention (arXiv:2212.09263).

The blocks are those of FocalNet (arXiv:2203.11926), one per level in the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import Mlp, TransformerBlock
from unetkit.blocks.checks import check_levels, check_rate
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchEmbed
from unetkit.blocks.swin import PATCH, Steps, SwinUnet, rising, stem_channels
from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, rename, source_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

FOCAL_TAG = "focalnet_tiny_lrf.ms_in1k"
WIDER = 2
"""How much wider each context's kernel is than the one before."""


class FocalModulation(nn.Module):
    """Multiply each token of a map [B, *S, C] by a mix of its surroundings at several ranges.

    Depthwise convolutions in a row, the first `window` wide, see further and further; the average over the map is the
    last context. Every token weighs the contexts by gates of its own.
    """

    def __init__(self, layers: Layers, channels: int, levels: int, window: int) -> None:
        super().__init__()
        self.parts = (channels, channels, levels + 1)  # query, context, gates
        self.f = nn.Linear(channels, sum(self.parts))
        kernels = [window + WIDER * i for i in range(levels)]
        self.focal_layers = nn.ModuleList(
            nn.Sequential(layers.conv(channels, channels, k, groups=channels, bias=False), nn.GELU()) for k in kernels
        )
        self.h = layers.conv(channels, channels, 1)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        query, context, gates = self.f(x).movedim(-1, 1).split(self.parts, 1)  # each [B, ., *S]
        mixed = torch.zeros_like(context)
        for i, layer in enumerate(self.focal_layers):
            context = layer(context)
            mixed = mixed + context * gates[:, i : i + 1]
        everywhere = F.gelu(context.mean(tuple(range(2, context.ndim)), keepdim=True))
        # y = q * h(sum of gated contexts), equation 6 of FocalNet
        return self.proj((query * self.h(mixed + everywhere * gates[:, -1:])).movedim(1, -1))


class PatchDown(PatchEmbed):
    """Halve the sides of a map and double its channels by a convolution on blocks of two, then a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S / 2, 2 C]."""
        return super().forward(x.movedim(-1, 1))


class PatchUp(nn.Module):
    """Enlarge a map by a transposed convolution without overlap, then a norm if wanted."""

    def __init__(self, layers: Layers, channels: int, out_channels: int, factor: int = 2, *, norm: bool = True) -> None:
        super().__init__()
        self.proj = layers.transposed(channels, out_channels, factor, stride=factor)
        self.norm = nn.LayerNorm(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S * factor, out_channels]."""
        return self.norm(self.proj(x.movedim(-1, 1)).movedim(1, -1))


@dataclass(frozen=True)
class FocalLevel:
    """One resolution: channels, contexts, width of the first, hidden channels, drop path down and up."""

    layers: Layers
    channels: int
    contexts: int
    window: int
    hidden: int
    drop_path: tuple[float, ...]
    drop_path_up: float

    def blocks(self) -> nn.ModuleList:
        """Return fresh blocks of the encoder."""
        return nn.ModuleList(map(self._block, self.drop_path))

    def blocks_up(self) -> nn.ModuleList:
        """Return the single block of the decoder."""
        return nn.ModuleList([self._block(self.drop_path_up)])

    def _block(self, rate: float) -> TransformerBlock:
        modulation = FocalModulation(self.layers, self.channels, self.contexts, self.window)
        return TransformerBlock(self.channels, modulation, Mlp(self.channels, self.hidden), drop_path=rate)


def load_focal(model: SwinUnet, state: dict[str, Tensor]) -> int:
    """Load weights of Focal-UNet or FocalNet, by the keys of their references, ours or timm's; return how many fit.

    Raises ModelError if nothing fits.
    """
    pairs = [(r"^stem\.", "patch_embed."), (r"\.modulation\.", ".attn."), (r"^patch_expand\.", "up.")]
    if "layers.0.downsample.proj.weight" not in state:
        # timm opens a stage with the step that the reference ends the stage before it with
        pairs += [(rf"^layers\.{i}\.downsample", f"layers.{i - 1}.downsample") for i in range(1, len(model.layers))]
    own = model.state_dict()
    state = rename(state, pairs)
    # timm's linear layers are convolutions, 1 wide
    fitted = {k: v.flatten(1) if k in own and own[k].ndim == 2 else v for k, v in state.items()}
    return load_matching(model, fitted)


@register(
    ModelInfo(
        title="Focal-UNet",
        family="hybrid",
        year=2022,
        paper="2212.09263",
        dims=(2, 3),
        multiple=32,
        multiple_by={"depths": 4},
        source=("github:givkashi/Focal-Unet", "aed3779", "none stated (FocalNet: MIT)"),
        params={2: 44253868},
        params_at={2: (1, 9, (224, 224))},
        gflops={2: 19.91},
        activation_mb={2: 290.8},
        notes=(
            "One channel is repeated to three, as in the reference, which takes no other input. Its count is 44254060: "
            "the 192 parameters of a norm that it never uses are left out. Depths are those its training script "
            "builds, not its configuration file's. Sides of any multiple of 32 and 3D are our extension."
        ),
    )
)
def focal_unet(
    task: TaskShape,
    *,
    embed_dim: int = 96,
    depths: Sequence[int] = (4, 4, 4, 4),
    contexts: int = 3,
    window: int = 3,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.2,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build Focal-UNet with `depths` blocks per level of the encoder, `embed_dim` channels at the first.

    `contexts` counts the depthwise convolutions of a block, the first `window` wide, odd. `weights` is a .safetensors
    or .npz file of Focal-UNet or FocalNet; `pretrained` takes FocalNet-T from timm, whose depths are (2, 2, 6, 2).
    Raises ModelError if the options contradict each other.
    """
    check_rate(drop_path)
    check_levels(depths=depths)
    if window < 1 or window % 2 == 0:
        raise ModelError(f"window={window}: give an odd width, so that contexts lie around their token")
    if pretrained and task.dims != 2:
        raise ModelError(f"pretrained weights are 2D, patch_size {task.patch_size} asks for {task.dims}D")
    layers = Layers(task.dims)
    levels = []
    # the reference gives level i of the decoder the rate of the encoder's block i
    ups = [drop_path * i / max(sum(depths) - 1, 1) for i in range(len(depths))]
    for i, (own, up) in enumerate(zip(rising(drop_path, depths), ups, strict=True)):
        width = embed_dim * 2**i
        levels.append(FocalLevel(layers, width, contexts, window, int(width * mlp_ratio), own, up))
    steps = Steps(
        down=lambda channels: PatchDown(layers, channels, 2 * channels, 2),
        up=lambda channels, out: PatchUp(layers, channels, out),
        last=lambda channels: PatchUp(layers, channels, channels, PATCH, norm=False),
    )
    model = SwinUnet(layers, stem_channels(task), task.num_classes, levels, steps, kernel=7)
    state = source_weights(weights, pretrained, FOCAL_TAG)
    if state is not None:
        load_focal(model, state)
    return model
