"""Swin-Unet: a U-Net of shifted-window attention alone (arXiv:2105.05537).

Beyond the reference go sides that windows do not divide (padded and masked) and volumes (the same layers over three
axes).
"""

from collections.abc import Sequence

from torch import nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.swin import SwinUnet, stem_channels, swin_levels, swin_steps
from unetkit.errors import ModelError
from unetkit.models._pretrained import source_weights
from unetkit.models._swin_weights import SWIN_TAG, load_swin
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


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
        gflops={2: 12.22},
        activation_mb={2: 209.0},
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
    if pretrained and task.dims != 2:
        raise ModelError(f"swin_unet: pretrained weights are 2D, patch_size {task.patch_size} asks for {task.dims}D")
    levels = swin_levels(
        task,
        embed_dim=embed_dim,
        depths=depths,
        heads=heads,
        window=window,
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
    )
    steps = swin_steps(task.dims)
    model = SwinUnet(Layers(task.dims), stem_channels(task), task.num_classes, levels, steps)
    state = source_weights(weights, pretrained, SWIN_TAG)
    if state is not None:
        load_swin(model, state)
    return model
