"""Weights of VMamba for networks built on its blocks."""

from torch import Tensor

from unetkit.blocks.vss import VssEncoder
from unetkit.models._pretrained import Renames, load_matching, rename

TO_OURS: Renames = (
    (r"^(module\.|model\.)?(vmunet\.|vssm_encoder\.)?", ""),
    (r"\.conv2d\.", ".conv."),
    (r"^downsamples\.(\d+)", r"layers.\1.downsample"),
)
"""From the keys of VMamba and of the networks around it to those of `VssEncoder`."""


def load_vmamba(encoder: VssEncoder, state: dict[str, Tensor], *, stem: bool = True) -> int:
    """Copy weights of VMamba into an encoder, without its `stem` if asked, and return how many tensors were taken.

    Raises ModelError if nothing fits.
    """
    renamed = rename(state, TO_OURS)
    return load_matching(encoder, {k: v for k, v in renamed.items() if stem or not k.startswith("patch_embed.")})
