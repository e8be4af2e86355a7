"""Swin-Unet: a U-Net of shifted-window attention alone (arXiv:2105.05537).

Modules are called as in Swin and in the Swin-Unet reference, so that weights of both load by name. Beyond the
reference go sides that windows do not divide (padded and masked) and volumes (the same layers over three axes).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import Mlp, TransformerBlock, WindowAttention
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchEmbed, PatchExpand, PatchMerging
from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, rename, source_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

PATCH = 4
SWIN_TAG = "swin_tiny_patch4_window7_224.ms_in1k"


@dataclass(frozen=True)
class Level:
    """What the blocks of one resolution need: channels, heads, window sides, hidden channels, drop path per block."""

    channels: int
    heads: int
    window: tuple[int, ...]
    hidden: int
    drop_path: tuple[float, ...]

    def blocks(self) -> nn.ModuleList:
        """Return fresh blocks; every second one has shifted windows."""
        return nn.ModuleList(
            TransformerBlock(
                self.channels,
                WindowAttention(self.channels, self.heads, self.window, shifted=i % 2 == 1),
                Mlp(self.channels, self.hidden),
                drop_path=rate,
            )
            for i, rate in enumerate(self.drop_path)
        )


class SwinStage(nn.Module):
    """Blocks on a map [B, *S, C], then a merging or an expanding step, if there is one."""

    def __init__(
        self, blocks: nn.ModuleList, downsample: nn.Module | None = None, upsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape, or to that of the step at the end."""
        for part in (*self.blocks, self.downsample, self.upsample):
            x = x if part is None else part(x)
        return x


class SwinUnet(nn.Module):
    """Swin stages down and up; skips are what enters a stage, joined by concatenation and a linear layer.

    An image of one channel is repeated where `stem_channels` is 3, as the reference does.
    """

    def __init__(self, layers: Layers, stem_channels: int, num_classes: int, levels: Sequence[Level]) -> None:
        super().__init__()
        self.stem_channels = stem_channels
        dims, widths = layers.dims, [level.channels for level in levels]
        self.patch_embed = PatchEmbed(layers, stem_channels, widths[0], PATCH)
        *above, lowest = levels
        down = [SwinStage(level.blocks(), downsample=PatchMerging(dims, level.channels)) for level in above]
        self.layers = nn.ModuleList([*down, SwinStage(lowest.blocks())])
        self.norm = nn.LayerNorm(widths[-1])

        # the widest step stands alone at the bottom, as in the reference: a stage without blocks
        expand = [PatchExpand(dims, width, width // 2, 2) for width in widths[1:]]
        ups = [SwinStage(level.blocks(), upsample=step) for level, step in zip(above, [None, *expand], strict=False)]
        self.layers_up = nn.ModuleList([expand[-1], *reversed(ups)])
        # a place for the bottom too, so that the keys count as the reference's do
        self.concat_back_dim = nn.ModuleList([nn.Identity(), *(nn.Linear(2 * n, n) for n in widths[-2::-1])])
        self.norm_up = nn.LayerNorm(widths[0])
        self.up = PatchExpand(dims, widths[0], widths[0], PATCH)
        self.output = layers.conv(widths[0], num_classes, 1, bias=False)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        x = self.patch_embed(x.expand(-1, self.stem_channels, *x.shape[2:]))
        skips = []
        for stage in self.layers:
            skips.append(x)
            x = stage(x)
        x = self.layers_up[0](self.norm(x))
        # the bottom stage's own input is no skip: the decoder starts from its output
        for stage, join, skip in zip(self.layers_up[1:], self.concat_back_dim[1:], skips[-2::-1], strict=True):
            x = stage(join(torch.cat([x, skip], -1)))
        return self.output(self.up(self.norm_up(x)).movedim(-1, 1))  # [B, *S, C] -> [B, C, *S]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def load_swin(model: SwinUnet, state: dict[str, Tensor]) -> int:
    """Load weights of Swin-Unet, or those of Swin into encoder and decoder; return how many tensors were taken.

    Takes the keys of the reference, of Swin's own checkpoints and of timm. A classifier is mirrored as in the
    reference: stage i of n also initialises the decoder stage n - 1 - i. Raises ModelError if nothing fits.
    """
    state = rename(state, [(r"^(module\.|model\.)?(swin_unet\.)?", "")])
    if any(key.startswith("layers_up.") for key in state):
        return load_matching(model, state)
    last = len(model.layers) - 1
    if "layers.0.downsample.reduction.weight" not in state:
        # timm opens a stage with the merging step that Swin ends the stage before it with
        state = rename(
            state, [(rf"^layers\.{i}\.downsample", f"layers.{i - 1}.downsample") for i in range(1, last + 1)]
        )
    for i in range(last + 1):
        state |= rename(
            {k: v for k, v in state.items() if k.startswith(f"layers.{i}.")},
            [(r"^layers\.\d", f"layers_up.{last - i}")],
        )
    return load_matching(model, state)


@register(
    ModelInfo(
        title="Swin-Unet",
        family="transformer",
        year=2022,
        paper="2105.05537",
        dims=(2, 3),
        multiple=32,
        multiple_by={"depths": 4},
        source=("github:HuCaoFighting/Swin-Unet", "f48f623", "none stated"),
        params={2: 27168900},
        params_at={2: (3, 9, (224, 224))},
        notes=(
            "One channel is repeated to three, as in the reference. Decoder depths are those of the encoder. Windows "
            "shrink to the lowest sides of the built patch size, so parameters vary with it below 224. Equal to the "
            "reference where that is legal (square, every level divisible by the window); other sides are padded "
            "and masked. 3D is our extension over three axes: no published weights."
        ),
    )
)
def swin_unet(
    task: TaskShape,
    *,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.2,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build Swin-Unet with `depths` blocks and `heads` per level, `embed_dim` channels at the first.

    `drop_path` is the rate of the deepest block, rising linearly. `weights` is a .safetensors or .npz file of Swin-Unet
    or Swin; `pretrained` takes Swin-T from timm. Raises ModelError if the options contradict each other.
    """
    _check_options(embed_dim, depths, heads, drop_path)
    if window < 1:
        raise ModelError(f"swin_unet: window={window}: give the side of a window, 1 or more")
    if pretrained and task.dims != 2:
        raise ModelError(f"swin_unet: pretrained weights are 2D, patch_size {task.patch_size} asks for {task.dims}D")
    rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
    levels = []
    for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        # a window larger than the map would be padding for the most part
        channels, side = embed_dim * 2**i, min(window, min(task.patch_size) // (PATCH * 2**i))
        own, rates = tuple(rates[:depth]), rates[depth:]
        levels.append(Level(channels, count, (side,) * task.dims, int(channels * mlp_ratio), own))
    # Swin's published weights are for RGB, so a grey image is shown to them as one
    stem_channels = 3 if task.in_channels == 1 else task.in_channels
    model = SwinUnet(Layers(task.dims), stem_channels, task.num_classes, levels)
    state = source_weights(weights, pretrained, SWIN_TAG)
    if state is not None:
        load_swin(model, state)
    return model


def _check_options(embed_dim: int, depths: Sequence[int], heads: Sequence[int], drop_path: float) -> None:
    if len(depths) != len(heads) or len(depths) < 2:
        raise ModelError(
            f"swin_unet: depths {tuple(depths)} and heads {tuple(heads)} need one entry per level, 2 at least"
        )
    for i, count in enumerate(heads):
        if embed_dim * 2**i % count:
            raise ModelError(f"swin_unet: {embed_dim * 2**i} channels at level {i} do not divide into {count} heads")
    if not 0 <= drop_path < 1:
        raise ModelError(f"swin_unet: drop_path {drop_path} is a probability, 0 or more and below 1")
