"""UNETR: a ViT whose hidden states feed a convolutional decoder (arXiv:2103.10504), as built by MONAI."""

from torch import nn

from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, source_weights
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

PROJECTIONS = ("perceptron", "conv")


@register(
    ModelInfo(
        title="UNETR",
        family="transformer",
        year=2022,
        paper="2103.10504",
        dims=(2, 3),
        multiple=16,
        fixed=True,
        source=("github:Project-MONAI/MONAI", "monai 1.6.1", "Apache-2.0"),
        params={3: 92802478},
        params_at={3: (1, 14, (96, 96, 96))},
        gflops={3: 146.4},
        activation_mb={3: 1072.0},
        needs=("monai",),
        notes=(
            "MONAI's network. The norm_cross_attn of each transformer block is unused: 18432 parameters in all that "
            "count but get no gradient. Position embeddings are learned for the built patch size."
        ),
    )
)
def unetr(
    task: TaskShape,
    *,
    feature_size: int = 16,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
    proj_type: str = "perceptron",
    dropout_rate: float = 0.0,
    weights: str | None = None,
) -> nn.Module:
    """Build UNETR with `feature_size` channels at full resolution, a multiple of 8, and a ViT of `hidden_size`.

    `proj_type` makes tokens of patches: "perceptron" as in the paper's recipe, or "conv". `weights` is a .safetensors
    or .npz file under MONAI's keys. Raises ModelError if the options contradict each other.
    """
    from monai.networks.nets import UNETR  # importing monai takes twice as long as torch

    if proj_type not in PROJECTIONS:
        raise ModelError(f"unetr: proj_type '{proj_type}': choose one of {', '.join(PROJECTIONS)}")
    if hidden_size % num_heads:
        raise ModelError(f"unetr: hidden_size={hidden_size} does not divide into {num_heads} heads")
    if not 0 <= dropout_rate < 1:
        raise ModelError(f"unetr: dropout_rate {dropout_rate} is a probability, 0 or more and below 1")
    model = UNETR(
        in_channels=task.in_channels,
        out_channels=task.num_classes,
        img_size=task.patch_size,
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        proj_type=proj_type,
        dropout_rate=dropout_rate,
        spatial_dims=task.dims,
    )
    state = source_weights(weights)
    if state is not None:
        load_matching(model, state)
    return model
