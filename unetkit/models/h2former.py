"""H2Former: a ResNet whose stages end in window attention, fed by convolutions of several sizes (TMI 2023)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import Mlp, TransformerBlock, WindowAttention
from unetkit.blocks.checks import check_heads, check_levels, check_rate
from unetkit.blocks.conv import ConvNormAct, Repeat
from unetkit.blocks.gates import EfficientChannelGate
from unetkit.blocks.layers import Layers, Resize, Size
from unetkit.blocks.swin import rising
from unetkit.blocks.unet import Decoder, Heads
from unetkit.errors import ModelError
from unetkit.models._pretrained import Renames, load_matching, rename, source_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

TIMM_TAG = "resnet34.tv_in1k"
BESIDE = ("patch_embed", "MS2", "MS3", "MS4")
NAMES: Renames = (
    (r"^conv1\.", "encoder.stem.0."),
    (r"^bn1\.", "encoder.stem.1."),
    *((rf"^layer{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)),
    *((rf"(stages.*)\.conv{i}\.", rf"\1.{part}.0.") for i, part in ((1, "first"), (2, "second"))),
    *((rf"(stages.*)\.bn{i}\.", rf"\1.{part}.1.") for i, part in ((1, "first"), (2, "second"))),
    (r"\.downsample\.", ".shortcut."),
    *((rf"^{part}\.norm\.", f"encoder.norms.{i}.") for i, part in enumerate(BESIDE)),
    *((rf"^{part}\.", f"encoder.beside.{i}.") for i, part in enumerate(BESIDE)),
    (r"\.(projs\.(\d)|reductions\.(\d)\.0)\.", r".convs.\2\3."),
    (r"\.eca\.", ".gate."),
    (r"^swin_layers\.(\d)\.blocks\.", r"encoder.attention.\1."),
    *((rf"^decode{i + 2}\.up\.", f"decoder.ups.{i}.") for i in range(3)),
    *((rf"^decode{i + 2}\.conv_bn_relu\.", f"decoder.blocks.{i}.") for i in range(3)),
    (r"^decode0\.1\.", "heads.convs.0."),
)
"""From the names of torchvision's and timm's ResNets and of the reference."""
WINDOWS = 16
"""How many windows a side of the image holds, at half resolution twice as many as fit into the deepest map's."""


class BasicBlock(nn.Module):
    """Two convolutions with norm beside a shortcut, 1 wide with norm where the shape changes (arXiv:1512.03385)."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> None:
        super().__init__()
        plain = layers.but(act="none")  # the last activation comes after the sum
        self.first = ConvNormAct(layers, in_channels, channels, stride)
        self.second = ConvNormAct(plain, channels, channels)
        same = in_channels == channels
        self.shortcut = nn.Identity() if same else ConvNormAct(plain, in_channels, channels, stride, 1)
        self.act = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.first(x)) + self.shortcut(x))


class MultiScale(nn.Module):
    """Halve a map by convolutions of several `kernels` side by side, each half as many channels as the one before."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        parts = [channels // 2 ** (i + 1) for i in range(len(kernels))]
        parts[-1] += channels - sum(parts)  # the last takes what is left
        self.convs = nn.ModuleList(
            layers.conv(in_channels, part, kernel, stride=2, padding=(kernel - 2) // 2)
            for part, kernel in zip(parts, kernels, strict=True)
        )
        self.gate = EfficientChannelGate()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, channels, *S / 2]."""
        x = torch.cat([conv(x) for conv in self.convs], 1)
        return x + self.gate(x)


class GatedMlp(Mlp):
    """MLP on a map [B, *S, C] whose channels are then gated; `scrambled` reads the memory as [B, C, *S] to do so."""

    def __init__(self, channels: int, hidden: int, scrambled: bool) -> None:
        super().__init__(channels, hidden)
        self.gate = EfficientChannelGate()
        self.scrambled = scrambled

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        y = super().forward(x)
        y = y.reshape(len(x), x.shape[-1], *x.shape[1:-1]) if self.scrambled else y.movedim(-1, 1)
        return (y + self.gate(y)).movedim(1, -1)


class H2Encoder(nn.Module):
    """A ResNet's stages on a stem of half resolution; what MultiScale makes of the level above is added to each.

    Then attention in windows of `window` voxels a side. `depths` count the residual blocks, `mlp` builds an MLP.
    """

    attention: Any

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        attention: Sequence[nn.ModuleList],
    ) -> None:
        super().__init__()
        plain = layers.but(bias=False)
        self.stem = ConvNormAct(plain, in_channels, widths[0], kernel=7)
        self.pool = layers.pool(2, kernel_size=3, padding=1)
        self.stages, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before, stride = (widths[i - 1], 2) if i else (width, 1)
            self.stages.append(Repeat(plain, before, width, stride, block=BasicBlock, count=depth))
            # of the first embedding, and of what each deeper one starts from
            self.norms.append(nn.LayerNorm(before))
        self.attention = nn.ModuleList(attention)
        merges = (MultiScale(layers, a, b, (2, 4)) for a, b in pairwise(widths))
        self.beside = nn.ModuleList([MultiScale(layers, in_channels, widths[0], (2, 4, 8, 16)), *merges])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [B, C, *S] to a map for each stage, at 1/2, 1/4, ... of S."""
        # channels last, as the norm wants them
        beside = self.norms[0](self.beside[0](x).movedim(1, -1))
        x = self.pool(self.stem(x))
        maps: list[Tensor] = []
        for i, (stage, blocks) in enumerate(zip(self.stages, self.attention, strict=True)):
            if i:
                beside = self.beside[i](self.norms[i](maps[-1].movedim(1, -1)).movedim(-1, 1)).movedim(1, -1)
            tokens = stage(x).movedim(1, -1) + beside
            for block in blocks:
                tokens = block(tokens)
            x = tokens.movedim(-1, 1)
            maps.append(x)
        return maps


class H2Former(nn.Module):
    """Encoder, decoder and head; the logits of half resolution are enlarged."""

    def __init__(self, layers: Layers, encoder: H2Encoder, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(layers, widths, [1] + [2] * (len(widths) - 1), ConvNormAct, join="up_first")
        self.heads = Heads(layers, widths[:1], num_classes, bias=False)
        self.enlarge = Resize(layers.dims, "linear_aligned", 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        # the reference enlarges first; linear steps without bias may change places, and this way costs a fourth
        return self.enlarge(self.heads(self.decoder(self.encoder(x))))


@register(
    ModelInfo(
        title="H2Former",
        family="hybrid",
        year=2023,
        paper="doi:10.1109/TMI.2023.3264513",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 2},
        source=("github:NKUhealong/H2Former", "8dad87e", "MIT, README says academic use only"),
        params={2: 33678656},
        params_at={2: (3, 1, (224, 224))},
        gflops={2: 49.46},
        activation_mb={2: 453.8},
        notes=(
            "Windows are a sixteenth of the built patch size per axis, so parameters vary with it. The MLPs of the "
            "reference read tokens x channels as channels x tokens before they gate, which mixes both: here channels "
            "are gated, as the paper says, and as_published=true does as the code. Its 4 input channels are those of "
            "the task. Other sides than squares and 3D are our extension."
        ),
    )
)
def h2former(
    task: TaskShape,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    depths: Sequence[int] = (3, 4, 6, 3),
    blocks: int = 2,
    heads: Sequence[int] = (2, 4, 8, 16),
    mlp_ratio: float = 4.0,
    drop_path: float = 0.1,
    as_published: bool = False,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build H2Former with `depths` residual and `blocks` attention blocks per level.

    `weights` is a .safetensors or .npz file of a ResNet-34 or of H2Former; `pretrained` takes timm's ResNet-34. Raises
    ModelError if the options contradict each other.
    """
    check_levels(widths=widths, depths=depths, heads=heads)
    check_heads(widths, heads)
    check_rate(drop_path)
    if blocks < 1:
        raise ModelError(f"blocks={blocks}: each level needs an attention block, 1 or more")
    if pretrained and task.dims != 2:
        raise ModelError(f"h2former: pretrained weights are 2D, patch_size {task.patch_size} asks for {task.dims}D")
    layers = Layers(task.dims)
    window = [max(n // WINDOWS, 1) for n in task.patch_size]
    rates = rising(drop_path, [blocks] * len(widths))
    attention = [
        nn.ModuleList(
            TransformerBlock(
                width,
                WindowAttention(width, count, window, shifted=i % 2 == 1),
                GatedMlp(width, int(width * mlp_ratio), as_published),
                drop_path=rate,
            )
            for i, rate in enumerate(own)
        )
        for width, count, own in zip(widths, heads, rates, strict=True)
    ]
    model = H2Former(layers, H2Encoder(layers, task.in_channels, widths, depths, attention), widths, task.num_classes)
    state = source_weights(weights, pretrained, TIMM_TAG)
    if state is not None:
        load_matching(model, rename(state, NAMES))
    return model
