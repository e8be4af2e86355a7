"""MedNeXt's weights from elsewhere, of kernels as wide as its own or not (UpKern, arXiv:2303.09975)."""

from collections.abc import Mapping

from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.models._pretrained import Renames, rename


def upkern(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the reference or our own under the model's names, kernels of another width resampled linearly.

    The UpKern of the paper: a network with kernel 5 starts from one that was trained with kernel 3.
    """
    renames: Renames = [
        (r"^(module|network)\.", ""),
        (r"^enc_block_0\.", "encoder.stages.0.0."),
        (r"^down_(\d)\.", lambda m: f"encoder.stages.{int(m[1]) + 1}.0.0."),
        # the block that shrinks the map comes before those of its level
        (r"^enc_block_(\d)\.(\d+)\.", lambda m: f"encoder.stages.{m[1]}.0.{int(m[2]) + 1}."),
        (r"^bottleneck\.(\d+)\.", lambda m: f"encoder.stages.4.0.{int(m[1]) + 1}."),
        (r"^up_(\d)\.", r"decoder.ups.\1."),
        (r"^dec_block_(\d)\.", r"decoder.blocks.\1."),
        (r"^out_(\d)\.conv_out\.", r"heads.convs.\1."),
        (r"\.conv1\.", ".depthwise."),
        (r"\.conv2\.", ".expand."),
        (r"\.conv3\.", ".compress."),
        (r"\.res_conv\.", ".shortcut."),
    ]
    own = model.state_dict()
    found = rename(dict(state), renames)
    for key, kernel in found.items():
        if key in own and kernel.ndim > 2 and kernel.shape[:2] == own[key].shape[:2]:
            found[key] = Layers(kernel.ndim - 2).linear(kernel, own[key].shape[2:])
    return found
