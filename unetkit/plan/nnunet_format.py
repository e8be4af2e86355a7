"""The keys of nnU-Net's plans file that are read, with their types; any other key is a slip of the pen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unetkit.errors import RecipeError
from unetkit.recipe.faults import explain_faults

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Sides = Annotated[list[Positive], Field(min_length=2, max_length=3)]
Counts = list[Positive] | Positive

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
NETWORKS = "dynamic_network_architectures.architectures.unet."
RESAMPLING, NO_RESAMPLING = "resample_data_or_seg_to_shape", "no_resampling_hack"
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "minmax",
    "RGBTo01Normalization": "rgb",
}
"""nnU-Net's names of normalisations, and ours."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Sizes(_Closed):
    """Arguments of nnU-Net's two U-Nets; the operators are texts that name a class."""

    n_stages: Positive
    features_per_stage: list[Positive]
    kernel_sizes: list[Sides]
    strides: list[Sides]
    n_conv_per_stage: Counts | None = None
    n_blocks_per_stage: Counts | None = None
    n_conv_per_stage_decoder: Counts | list[Any]
    conv_op: str | None = None
    conv_bias: Literal[True] = True
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: Literal["torch.nn.LeakyReLU"] = "torch.nn.LeakyReLU"
    nonlin_kwargs: dict[str, Any] | None = None


class Architecture(_Closed):
    """The network: the path of a class, and what it is built with."""

    network_class_name: str
    arch_kwargs: Sizes
    kw_requires_import: list[str] = Field([], alias="_kw_requires_import")


class Resampling(_Closed):
    """How one kind of voxels is resampled: spline orders in the plane and across it."""

    is_seg: bool = False
    order: Literal[0, 1, 3] = 1
    order_z: Literal[0] = 0
    force_separate_z: bool | None = None


class Section(_Closed):
    """One configuration, inheritance resolved."""

    batch_size: Positive
    patch_size: Sides
    spacing: Annotated[list[PositiveFloat], Field(min_length=2, max_length=3)]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    resampling_fn_data: Literal["resample_data_or_seg_to_shape", "no_resampling_hack"]
    resampling_fn_seg: Literal["resample_data_or_seg_to_shape", "no_resampling_hack"]
    resampling_fn_data_kwargs: Resampling = Resampling(order=3)
    resampling_fn_seg_kwargs: Resampling = Resampling(is_seg=True)
    architecture: Architecture
    batch_dice: bool = False
    data_identifier: str = ""
    preprocessor_name: str = ""
    median_image_size_in_voxels: list[float] = []
    resampling_fn_probabilities: str = RESAMPLING
    resampling_fn_probabilities_kwargs: dict[str, Any] = {}
    inherits_from: str | None = None
    previous_stage: str | None = None
    next_stage: str | list[str] | None = None


def checked(tree: dict[str, Any], where: str) -> Section:
    """Return a configuration whose types are right. Raises RecipeError, in one line, for the first fault in `where`."""
    try:
        return Section.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain_faults(error, Section)[0]}; correct the file") from error


def modern(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of today's form; files of nnU-Net 2.0 to 2.3 list the network's sizes one by one."""
    if "UNet_class_name" not in tree or "architecture" in tree:
        return tree
    rest, name = dict(tree), tree["UNet_class_name"]
    first, most = rest.pop("UNet_base_num_features"), rest.pop("unet_max_num_features")
    for key in ("UNet_class_name", "num_pool_per_axis"):
        rest.pop(key, None)
    strides, kernels = rest.pop("pool_op_kernel_sizes"), rest.pop("conv_kernel_sizes")
    counts = rest.pop("n_conv_per_stage_encoder")
    sizes = {
        "n_stages": len(strides),
        "features_per_stage": [min(first * 2**i, most) for i in range(len(strides))],
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage": counts,
        "n_conv_per_stage_decoder": rest.pop("n_conv_per_stage_decoder"),
    }
    return {**rest, "architecture": {"network_class_name": NETWORKS + name, "arch_kwargs": sizes}}
