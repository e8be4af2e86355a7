"""Swin UNETR: a Swin encoder whose stages feed a convolutional decoder (arXiv:2201.01266), as built by MONAI."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unetkit.errors import ModelError
from unetkit.models._pretrained import Renames, load_matching, rename, source_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

SELF_SUPERVISED: Renames = (
    (r"^module\.(?=swinViT\.|encoder\d|decoder\d|out\.)", ""),
    (r"^module\.", "swinViT."),
    (r"\.mlp\.fc(\d)\.", r".mlp.linear\1."),
)
"""From the encoder pre-trained on its own, and from models saved under DataParallel, to MONAI's keys."""


class _NumbersInMemory(TorchFunctionMode):
    """MONAI reads the rates of stochastic depth from a tensor while it builds, which one on the meta device has not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        return func(*args, **({"device": "cpu", **given} if func is torch.linspace else given))


@register(
    ModelInfo(
        title="Swin UNETR",
        family="transformer",
        year=2022,
        paper="2201.01266",
        dims=(2, 3),
        multiple=32,
        min_size=64,  # at 32 the deepest map is one voxel, which instance norm refuses
        source=("github:Project-MONAI/MONAI", "monai 1.6.1", "Apache-2.0"),
        params={2: 25138568, 3: 62187296},
        params_at={2: (1, 14, (96, 96)), 3: (1, 14, (96, 96, 96))},
        gflops={2: 5.022, 3: 637.0},
        activation_mb={2: 67.34, 3: 4839.0},
        needs=("monai",),
        notes=(
            "MONAI's network; use_v2 adds a residual block before each stage (SwinUNETR-V2), 72762656 parameters in "
            "3D. MONAI 1.3.2 and 1.6.1 merge patches in different orders: weights trained under the older one load, "
            "but give other outputs."
        ),
    )
)
def swin_unetr(
    task: TaskShape,
    *,
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    use_v2: bool = False,
    use_checkpoint: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Build Swin UNETR with `feature_size` channels at the first stage, `depths` blocks and `num_heads` per stage.

    `use_checkpoint` trades time for memory in training. `weights` is a .safetensors or .npz file under MONAI's keys, or
    of the self-supervised encoder. Raises ModelError if the options contradict each other.
    """
    from monai.networks.nets import SwinUNETR  # importing monai takes twice as long as torch

    _check_options(feature_size, depths, num_heads, drop_path)
    with _NumbersInMemory():
        model = SwinUNETR(
            in_channels=task.in_channels,
            out_channels=task.num_classes,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            feature_size=feature_size,
            dropout_path_rate=drop_path,
            use_checkpoint=use_checkpoint,
            spatial_dims=task.dims,
            use_v2=use_v2,
        )
    # heads and stems of other tasks keep their drawn weights
    state = source_weights(weights)
    if state is not None:
        load_matching(model, rename(state, SELF_SUPERVISED))
    return model


def _check_options(feature_size: int, depths: Sequence[int], num_heads: Sequence[int], drop_path: float) -> None:
    if len(depths) != 4 or len(num_heads) != 4:
        raise ModelError(f"swin_unetr: depths {tuple(depths)} and num_heads {tuple(num_heads)} need four entries each")
    if feature_size % 12 or any(feature_size * 2**i % heads for i, heads in enumerate(num_heads)):
        raise ModelError(
            f"swin_unetr: feature_size={feature_size} must be a multiple of 12 and of num_heads {tuple(num_heads)}, "
            "doubled at every stage"
        )
    if not 0 <= drop_path < 1:
        raise ModelError(f"swin_unetr: drop_path {drop_path} is a probability, 0 or more and below 1")
