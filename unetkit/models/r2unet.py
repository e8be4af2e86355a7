"""R2U-Net and RU-Net: convolutions that see their own output again, with and without a shortcut (arXiv:1802.06955)."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.gates import AdditiveGate
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512, 1024)


class RecurrentConv(nn.Module):
    """One convolution with norm and activation on a map [B, C, *S], and `steps` times more on map plus result.

    All steps share the norm too, so that its running statistics mix them.
    """

    def __init__(self, layers: Layers, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = ConvNormAct(layers, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        state = self.conv(x)
        for _ in range(self.steps):
            state = self.conv(x + state)
        return state


class RecurrentStack(nn.Module):
    """A projection to the wanted channels, then two recurrent convolutions, beside a shortcut if `residual`."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, steps: int, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.project = layers.conv(in_channels, channels, 1, stride=stride)
        self.convs = nn.Sequential(*(RecurrentConv(layers, channels, steps) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        return x + self.convs(x) if self.residual else self.convs(x)


def _build(
    task: TaskShape, t: int, widths: Sequence[int] | None, deep_supervision: bool, *, residual: bool, attention: bool
) -> nn.Module:
    if t < 1:
        raise ModelError(f"t={t}: how often a map comes back; give 1 or more")
    channels = tuple(widths or WIDTHS)
    layers = Layers(task.dims, up="nearest_conv")
    block = partial(RecurrentStack, steps=t, residual=residual)
    encoder = Encoder(layers, task.in_channels, channels, block)
    gates = [AdditiveGate(layers, c, c) for c in channels[:-1]] if attention else []
    decoder = Decoder(layers, channels, encoder.strides, block, gates=gates)
    return UNet(encoder, decoder, Heads(layers, channels[:-1], task.num_classes, deep_supervision=deep_supervision))


@register(
    ModelInfo(
        title="R2U-Net",
        family="cnn",
        year=2018,
        paper="1802.06955",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        deep_supervision=True,
        source=("github:LeeJunHyun/Image_Segmentation", "5e9da93", "none stated"),
        params={2: 39091393},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 305.0},
        activation_mb={2: 1349.0},
        notes="t=2 calls each convolution 3 times, as the public code does; the widths behind the smaller counts that "
        "the paper prints are not known; attention=true is that code's R2AttU_Net, which has no paper",
    )
)
def r2unet(
    task: TaskShape,
    *,
    t: int = 2,
    attention: bool = False,
    widths: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build an R2U-Net of `widths` channels per level, finest first, whose maps come back `t` times.

    `attention` puts the gates of Attention U-Net on the skips. Raises ModelError for `t` below 1.
    """
    return _build(task, t, widths, deep_supervision, residual=True, attention=attention)


@variant(
    r2unet,
    title="RU-Net",
    source=("", "", ""),
    activation_mb={2: 1301.0},
    new="R2U-Net without its shortcuts: convolutions that see their own output again",
    notes="no public code: r2unet with the addition taken out, which fits the equal parameter counts "
    "of the paper; the other reading, kernels of their own for what comes back, would double the weights",
)
def runet(
    task: TaskShape, *, t: int = 2, widths: Sequence[int] | None = None, deep_supervision: bool = False
) -> nn.Module:
    """Build an RU-Net: R2U-Net without the addition around each pair of recurrent convolutions.

    Raises ModelError for `t` below 1.
    """
    return _build(task, t, widths, deep_supervision, residual=False, attention=False)
