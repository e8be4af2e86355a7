"""Weights of Swin and of Swin-Unet for networks built on Swin-Unet."""

from torch import Tensor

from unetkit.blocks.swin import SwinUnet
from unetkit.models._pretrained import load_matching, rename

SWIN_TAG = "swin_tiny_patch4_window7_224.ms_in1k"


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
