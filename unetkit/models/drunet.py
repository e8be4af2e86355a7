"""DRU-Net: a patch classifier marks the tumour coarsely, a small U-Net refines its map (arXiv:2406.14287)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers, Resize, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

WIDTHS = (8, 16, 32, 64, 128)
MAP_CHANNELS = 3
DROPOUT, DROPOUT_LEVEL = 0.3, 2
# what Keras takes for granted, and its applications
KERAS_NORM = ("batch", {"eps": 1e-3, "momentum": 0.01})
TRUNK_NORM = ("batch", {"eps": 1.001e-5, "momentum": 0.01})


def _pair(layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, dropout: float = 0.0) -> nn.Module:
    """Return two convolutions with an activation each, half the channels between them, and a norm after both."""
    hidden = channels // 2
    first = ConvNormAct(layers.but(norm="none"), in_channels, hidden)
    second = ConvNormAct(layers.but(norm="none"), hidden, channels)
    return nn.Sequential(first, layers.drop_channels(dropout), second, layers.norm(channels))


def _single(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    conv = layers.conv(in_channels, channels)
    return nn.Sequential(conv, layers.act(), layers.norm(channels))


def _enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    return nn.Sequential(Resize(layers.dims, "nearest", stride), layers.conv(in_channels, channels), layers.act())


def _norm(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return layers.norm(channels)


class DRUNet(nn.Module):
    """The refinement: the last `maps` input channels pass a convolution of their own, then all go through a U-Net.

    The two deepest levels share a resolution, and the finest has no skip.
    """

    def __init__(self, task: TaskShape, widths: Sequence[int], maps: int) -> None:
        super().__init__()
        layers = Layers(task.dims, norm=KERAS_NORM, up=_enlarge)
        self.maps = maps
        self.coarse = nn.Sequential(layers.conv(maps, MAP_CHANNELS), layers.act())
        deepest = len(widths) - 1
        pairs = [partial(_pair, dropout=DROPOUT if level == DROPOUT_LEVEL else 0.0) for level in range(deepest)]
        channels = task.in_channels - maps + MAP_CHANNELS
        strides = [1, *[2] * (deepest - 1), 1]
        self.encoder = Encoder(layers, channels, widths, [*pairs, _single], strides=strides)
        # each level's enlarged map is as wide as its skip; only a norm follows their concatenation
        joined = (widths[0], *(2 * c for c in widths[1:-1]))
        self.decoder = Decoder(
            layers,
            (0, *widths[1:]),
            self.encoder.strides,
            _norm,
            widths=joined,
            enlarged=widths[:-1],
            join="up_first",
        )
        self.heads = Heads(layers, joined, task.num_classes, kernel=3)
        glorot_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map image and coarse maps [B, C, *S] to logits [B, K, *S]."""
        image, coarse = x[:, : -self.maps], x[:, -self.maps :]
        maps = self.encoder(torch.cat([image, self.coarse(coarse)], 1))
        return self.heads(self.decoder([None, *maps[1:]]))


@register(
    ModelInfo(
        title="DRU-Net",
        family="cnn",
        year=2024,
        paper="2406.14287",
        dims=(2, 3),
        multiple=8,
        source=("github:AICAN-Research/DRU-Net", "edbdbf6", "MIT"),
        params={2: 234196},
        params_at={2: (4, 2, (1120, 1120))},
        gflops={2: 28.07},
        activation_mb={2: 797.8},
        notes="the second stage of two: the last input channels are the classes that the first (drunet_patches, or any "
        "other network) saw; 3D by the same rules",
    )
)
def drunet(task: TaskShape, *, maps: int = 1) -> nn.Module:
    """Build DRU-Net's refinement; the last `maps` input channels are those of the stage before.

    Raises ModelError if nothing is left for the image.
    """
    if not 1 <= maps < task.in_channels:
        raise ModelError(
            f"maps={maps}: of {task.in_channels} input channels the last are the map of the stage before and at least "
            "one is the image; train it with plan.previous=true and data.previous=FOLDER"
        )
    return DRUNet(task, WIDTHS, maps)


def _before(layers: Layers, in_channels: int, channels: int, kernel: int = 1) -> nn.Sequential:
    """Return norm, activation and a convolution without bias."""
    return nn.Sequential(layers.norm(in_channels), layers.act(), layers.conv(in_channels, channels, kernel, bias=False))


class DenseLayer(nn.Module):
    """Add `growth` channels to a map (DenseNet, arXiv:1608.06993)."""

    def __init__(self, layers: Layers, in_channels: int, growth: int = 32) -> None:
        super().__init__()
        self.main = nn.Sequential(_before(layers, in_channels, 4 * growth), _before(layers, 4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, C + growth, *S]."""
        return torch.cat([x, self.main(x)], 1)


class PreActivationBottleneck(nn.Module):
    """Residual unit that normalises first (ResNet v2, arXiv:1603.05027); a stride without projection skips voxels."""

    def __init__(self, layers: Layers, in_channels: int, hidden: int, stride: int, project: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(layers.norm(in_channels), layers.act())
        self.main = nn.Sequential(
            layers.conv(in_channels, hidden, 1, bias=False),
            layers.norm(hidden),
            layers.act(),
            layers.conv(hidden, hidden, stride=stride, bias=False),
            layers.norm(hidden),
            layers.act(),
            layers.conv(hidden, 4 * hidden, 1),
        )
        self.shortcut = layers.conv(in_channels, 4 * hidden, 1) if project else layers.pool(stride, kernel_size=1)
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, *S] to [B, 4 hidden, *S / stride]."""
        # before() must not change x in place, as the shortcut may need it: a norm comes first
        ready = self.before(x)
        return self.main(ready) + self.shortcut(ready if self.project else x)


class ZeroBorderPool(nn.Module):
    """Max pooling, 3 wide, by 2, over a border of zeros, as Keras has it: here the values may be negative."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.pool = layers.pool(2, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, C, *S / 2]."""
        return self.pool(F.pad(x, [1, 1] * (x.ndim - 2)))


def _dense_trunk(layers: Layers, in_channels: int) -> tuple[nn.Module, int]:
    """Return DenseNet201 up to its layer conv4_block6_1_conv, and the channels it gives."""
    stem = layers.conv(in_channels, 64, 7, stride=2, bias=False)
    parts: list[nn.Module] = [stem, layers.norm(64), layers.act(), layers.pool(2, kernel_size=3, padding=1)]
    width = 64
    for count in (6, 12):
        parts += [DenseLayer(layers, width + 32 * i) for i in range(count)]
        width += 32 * count
        parts += [_before(layers, width, width // 2), layers.pool(2, "average")]
        width //= 2
    parts += [DenseLayer(layers, width + 32 * i) for i in range(5)]
    return nn.Sequential(*parts, _before(layers, width + 5 * 32, 128)), 128


def _residual_trunk(layers: Layers, in_channels: int) -> tuple[nn.Module, int]:
    """Return ResNet101V2 up to its layer conv4_block9_1_bn, and the channels it gives."""
    parts: list[nn.Module] = [layers.conv(in_channels, 64, 7, stride=2), ZeroBorderPool(layers)]
    width = 64
    for hidden, count, stride in ((64, 3, 2), (128, 4, 2), (256, 8, 1)):
        for i in range(count):
            step = stride if i == count - 1 else 1  # the last unit of a stack has the stride
            parts.append(PreActivationBottleneck(layers, width, hidden, step, project=i == 0))
            width = 4 * hidden
    return nn.Sequential(*parts, _before(layers, width, 256), layers.norm(256)), 256


class PatchClassifier(nn.Module):
    """Two cut trunks see a patch [B, C, *S]; the logits of the whole patch stand at each of its voxels."""

    def __init__(self, task: TaskShape) -> None:
        super().__init__()
        layers = Layers(task.dims, norm=TRUNK_NORM)
        self.dense, first = _dense_trunk(layers, task.in_channels)
        self.residual, second = _residual_trunk(layers, task.in_channels)
        self.head = nn.Sequential(
            nn.Dropout(0.4), nn.Linear(first + second, 512), nn.ReLU(), nn.Linear(512, task.num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map a patch [B, C, *S] to logits [B, K, *S], the same at all voxels."""
        means = [trunk(x).flatten(2).mean(2) for trunk in (self.dense, self.residual)]
        logits = self.head(torch.cat(means, 1))
        return logits.view(*logits.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])


@register(
    ModelInfo(
        title="DRU-Net patch classifier",
        family="cnn",
        year=2024,
        paper="2406.14287",
        dims=(2, 3),
        min_size=32,
        source=("github:AICAN-Research/DRU-Net", "edbdbf6", "MIT"),
        params={2: 13125058},
        params_at={2: (3, 2, (224, 224))},
        gflops={2: 11.05},
        activation_mb={2: 190.2},
        new="classifies whole patches by two cut backbones; windows beside one another make a coarse map",
        notes="the first stage of two: every voxel of a patch gets the logits of the patch, so that pixel-wise "
        "cross-entropy is that of the patch with the share of each class as target; predict with infer.overlap=0. "
        "The trunks are not pretrained here; 3D by the same rules",
    )
)
def drunet_patches(task: TaskShape) -> nn.Module:
    """Build DRU-Net's patch classifier: DenseNet201 and ResNet101V2, both cut in their third stage, side by side."""
    return PatchClassifier(task)
