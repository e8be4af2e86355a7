"""Any timm network that offers a pyramid of maps, as the encoder of a 2D U-Net, or that ends in one vector."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from math import log2
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from unetkit.blocks.unet import check_divides
from unetkit.errors import ModelError, nearest
from unetkit.types import TaskShape

DECODER_WIDTHS = (256, 128, 64, 32, 16)
ENCODER_DIMS = (2,)
STEM_FIRST = re.compile(r"(timm-)?efficientnet-(b[0-7])")
"""EfficientNets under the names of segmentation_models.pytorch: the finest map is the stem's, not the first stage's.

Without "timm-" they pad as TensorFlow does.
"""


class TimmEncoder(nn.Module):
    """The maps of a timm network at 1/2, 1/4, ... of the input, finest first, with None for levels it has not.

    `name` is timm's, with or without "tu-" before it, or one of STEM_FIRST; the maps are those of timm's
    `features_only`. `pretrained` fetches its weights, `weights` names a .safetensors file with them instead; weights
    for RGB are summed or repeated to fit other channel counts. Raises ModelError for an unknown or unsuitable name and
    for weights that cannot be had.
    """

    def __init__(self, name: str, in_channels: int, *, pretrained: bool = False, weights: str | None = None) -> None:
        super().__init__()
        stemmed = STEM_FIRST.fullmatch(name)
        if stemmed:
            name = f"{'' if stemmed[1] else 'tf_'}efficientnet_{stemmed[2]}"
        maps = {"features_only": True, "in_chans": in_channels}
        self.network = _create(name.removeprefix("tu-"), maps, pretrained, weights)
        self.channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        reductions = self.network.feature_info.reduction()
        # a stem of stride 4 (ConvNeXt, Swin) has no maps at 1/1 and 1/2
        self.missing = round(log2(reductions[0]))
        if list(reductions) != [2 ** (self.missing + i) for i in range(len(reductions))]:
            raise ModelError(
                f"encoder '{name}' gives maps at 1/{', 1/'.join(map(str, reductions))} of the input; "
                "choose one whose maps halve from one to the next"
            )
        self.channels = (*[0] * self.missing, *self.network.feature_info.channels())
        self._instead: dict[int, Tensor] = {}
        if stemmed:
            self.channels = (0, self.network.conv_stem.out_channels, *self.channels[2:])
            self.network.bn1.register_forward_hook(partial(self._keep, 0))
        if stemmed and stemmed[0] == "efficientnet-b0":
            # there that library takes the map at 1/16 two blocks before the end of its stage, in this size alone
            self.network.blocks[4][0].register_forward_hook(partial(self._keep, 3))
        self.strides = ((1, 1), *[(2, 2)] * (len(self.channels) - 1))
        # those of segmentation_models.pytorch, which starts with the widest at the deepest level
        steps = len(self.channels) - 1
        # EfficientViM goes down to 1/64: one level more than that library knows
        self.decoder_widths = (DECODER_WIDTHS[:1] * (steps - len(DECODER_WIDTHS)) + DECODER_WIDTHS[:steps])[::-1]
        self.divisor = (int(reductions[-1]),) * 2

    def forward(self, x: Tensor, levels: int | None = None) -> Sequence[Tensor | None]:
        maps = self.network(x)
        maps = [self._instead.pop(level, m) for level, m in enumerate(maps)]
        if self.channels_last:  # Swin and its like give [B, H, W, C]
            maps = [m.movedim(-1, 1) for m in maps]
        return [*[None] * self.missing, *maps][:levels]  # timm computes all of them, however few are asked for

    def _keep(self, level: int, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self._instead[level] = output


def encoder_for(
    task: TaskShape, name: str | None, *, pretrained: bool, weights: str | None, unused: Mapping[str, Any]
) -> TimmEncoder | None:
    """Return the encoder that a model's options ask for; None if they name none.

    `unused` are options without a meaning beside an encoder, by name. Raises ModelError if one of them is set, for
    weights without an encoder and for a 3D task, ShapeError if the patch does not fit the encoder's strides.
    """
    if name is None:
        if pretrained or weights:
            raise ModelError("pretrained and weights are for a timm encoder; give encoder=NAME too, or drop them")
        return None
    if task.dims not in ENCODER_DIMS:
        raise ModelError(
            f"encoder '{name}' is 2D only, patch_size {task.patch_size} asks for {task.dims}D; drop encoder"
        )
    if clashing := [key for key, value in unused.items() if value]:
        raise ModelError(f"encoder '{name}' decides what {', '.join(clashing)} would set; give one or the other")
    encoder = TimmEncoder(name, task.in_channels, pretrained=pretrained, weights=weights)
    check_divides(encoder.divisor, task.patch_size)
    return encoder


def pooled_encoder(
    name: str, in_channels: int, dropout: float, *, pretrained: bool = False, weights: str | None = None
) -> nn.Module:
    """Return a timm network from images to a vector [B, `num_features`] with dropout; weights as in `TimmEncoder`.

    Raises ModelError for weights that cannot be had.
    """
    network: nn.Module = _create(
        name, {"num_classes": 0, "in_chans": in_channels, "drop_rate": dropout}, pretrained, weights
    )
    return network


def _create(name: str, how: Mapping[str, Any], pretrained: bool, weights: str | None) -> Any:
    """Build the timm network as timm is told in `how`; every failure becomes one line."""
    import timm  # slow to import, and only needed where an encoder is asked for

    if name.partition(".")[0] not in timm.list_models():
        raise ModelError(f"timm has no network '{name}'{nearest(name, timm.list_models())}; see timm.list_models()")
    options: dict[str, Any] = {**how, "pretrained": pretrained}
    if weights:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(_weights_file(weights, pretrained))}}
    try:
        network = timm.create_model(name, **options)
        missed = _missed(network, weights) if weights else []
    except Exception as error:  # what fails depends on timm and its hub client: network, disk, key names
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:120]
        if not options["pretrained"]:
            raise ModelError(
                f"encoder '{name}' cannot be built with {', '.join(how)} ({reason}); choose another"
            ) from error
        raise ModelError(
            f"the weights of encoder '{name}' cannot be had ({reason}); "
            "give weights=PATH to a .safetensors file of that network, or pretrained=false"
        ) from error
    if missed:
        raise ModelError(
            f"weights={weights}: {len(missed)} tensors of encoder '{name}' are not in it (the first is {missed[0]}); "
            "give the file of that network"
        )
    return network


def _missed(network: nn.Module, weights: str) -> list[str]:
    """Return the convolutions that did not come from the file; timm skips, without a word, what it cannot place.

    The stem is left out, as it is changed to fit the input channels. Names differ from those in the file, so
    tensors are compared by shape and sum.
    """
    stored = {(tuple(t.shape), float(t.double().sum())) for t in load_file(Path(weights).expanduser()).values()}
    kernels = [(key, p) for key, p in network.named_parameters() if p.ndim > 1][1:]
    return [key for key, p in kernels if (tuple(p.shape), float(p.detach().double().sum())) not in stored]


def _weights_file(weights: str, pretrained: bool) -> Path:
    path = Path(weights).expanduser()
    if pretrained:
        raise ModelError(f"weights={weights} and pretrained=true contradict each other; give one of them")
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(f"weights={weights}: there is no such .safetensors file; give the path of one")
    return path
