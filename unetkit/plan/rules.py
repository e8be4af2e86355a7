"""From what was measured, what the recipe asks and what the model can take to one plan, each choice with its reason."""

from __future__ import annotations

from typing import Any

from unetkit.errors import RecipeError
from unetkit.plan import budget, nnunet
from unetkit.plan.configurations import (
    CASCADE,
    FLAT,
    FULL,
    LOW,
    Frame,
    choose_name,
    coarse_frame,
    explain,
    full_frame,
    low_stage,
    no_low_stage,
    refusal,
)
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.from_file import configurations_of_file, read_plan
from unetkit.plan.grid import ANISOTROPIC, full_grid
from unetkit.plan.intensity import choose_normalization
from unetkit.plan.lowres import LowResolution
from unetkit.plan.mirrors import mirror_axes
from unetkit.plan.plan import Plan
from unetkit.plan.stages import choose_stages
from unetkit.plan.weighing import Measure, as_built, batch_by_weight, patch_by_weight, weighed
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, check_size
from unetkit.topology import pool_topology


def decide(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo, measure: Measure | None = None) -> Plan:
    """Return the plan of one configuration; what the recipe gives is taken as it is.

    With `plan.file` the plan is read from there instead. `measure` weighs a training step; without it the convolutions
    of a plain U-Net are counted.

    Raises RecipeError for overrides that contradict each other, the data or the model, and for a configuration that
    the data do not have; ModelError if the model cannot work on such images.
    """
    if recipe.plan.file is not None:
        return read_plan(fingerprint, recipe, info)
    reasons: dict[str, str] = {}
    info = as_built(info, recipe)
    frame, patch, low = _stage(fingerprint, recipe, info, reasons, measure)
    batch = _sized_batch(frame, patch, recipe, reasons)
    strides, kernels, widths = choose_stages(info, patch, (*frame.topology(patch), ()), recipe, reasons)
    rules, reasons["normalization"] = choose_normalization(
        fingerprint, recipe.data, frame.grid.crop, recipe.plan.planner
    )
    return Plan(
        patch_size=patch,
        batch_size=batch,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        normalization=rules,
        spacing=frame.spacing,
        transpose=frame.transpose,
        resize=recipe.data.resize,
        crop_nonzero=frame.grid.crop,
        resampling=_resampling(frame, recipe, reasons),
        strides=strides,
        kernels=kernels,
        widths=widths,
        mirror_axes=mirror_axes(frame.dims, frame.transpose, recipe, reasons),
        configuration=frame.name,
        batch_dice=_batch_dice(frame.name, low is not None, reasons),
        previous=frame.name == CASCADE or recipe.plan.previous,
        expected=_expected(frame, patch, batch, recipe),
        reasons=reasons,
    )


def configurations_for(
    fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo, measure: Measure | None = None
) -> tuple[str, ...]:
    """Return the configurations that suit data, model and recipe, whichever the recipe names.

    Raises RecipeError or ModelError if none does.
    """
    if recipe.plan.file is not None:
        return configurations_of_file(recipe, info)
    info = as_built(info, recipe)
    grid = full_grid(fingerprint, recipe, {})
    names = [name for name in (FLAT, FULL) if refusal(name, grid, recipe, info) is None]
    if FULL in names:
        full = weighed(full_frame(grid, FULL, fingerprint, recipe, info), fingerprint, recipe, measure)
        if low_stage(full, _sized_patch(full, recipe, {})) is not None:
            names += [LOW, CASCADE]
    free = recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"configuration": None})})
    return tuple(names) or (choose_name(grid, free, info),)


def _stage(
    fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo, reasons: dict[str, str], measure: Measure | None
) -> tuple[Frame, tuple[int, ...], LowResolution | None]:
    """Return the frame of the configuration, its patch, and the lower resolution that the data need, if any."""
    grid = full_grid(fingerprint, recipe, reasons)
    name = choose_name(grid, recipe, info)
    frame = weighed(full_frame(grid, name, fingerprint, recipe, info), fingerprint, recipe, measure)
    asked = recipe.plan.spacing
    if frame.dims == 3 and asked not in (None, "native") and len(asked) != 3:
        raise RecipeError(f"plan.spacing {list(asked)}: give 3 numbers in mm, or native")
    patch = _sized_patch(frame, recipe, reasons)
    low = low_stage(frame, patch)
    reasons["configuration"] = explain(frame, patch, low, recipe)
    if name in (LOW, CASCADE) and low is None:
        raise no_low_stage(frame, patch)
    if name == LOW and low is not None:
        frame = weighed(coarse_frame(frame, low), fingerprint, recipe, measure)
        reasons["spacing"] = f"{low.steps} steps of 3 % coarser than the full resolution"
        patch = _sized_patch(frame, recipe, reasons)
    return frame, patch, low


def _expected(frame: Frame, patch: tuple[int, ...], batch: int, recipe: Recipe) -> dict[str, float]:
    """Return what was measured on the way to the sizes; nothing where none was weighed."""
    setting = frame.setting
    if setting.weigh is None or frame.budget is not None or (recipe.data.patch_size and recipe.train.batch_size):
        return {}
    return {"memory_gb": round(setting.gb(patch, batch), 3)}


def _batch_dice(name: str, has_low: bool, reasons: dict[str, str]) -> bool:
    """Return whether the loss pools over the batch: nnU-Net's rule, by how little of an image one patch sees."""
    pooled = name == FLAT or (name != LOW and has_low)
    sees = "much" if not pooled else "little"
    reasons["batch_dice"] = f"one sample of {name} sees {sees} of an image, so Dice is taken " + (
        "over the batch" if pooled else "of each sample"
    )
    return pooled


def _sized_patch(frame: Frame, recipe: Recipe, reasons: dict[str, str]) -> tuple[int, ...]:
    """Return the patch: nnU-Net's where that is the planner, unless the recipe gives one."""
    own, sizes, info = frame.budget, frame.sizes, frame.setting.info
    if own is None or sizes is None or recipe.data.patch_size or (recipe.data.resize and frame.dims == 2):
        return _patch(frame, recipe, reasons)
    patch = sizes.patch_size if frame.setting.follows_plan else info.legal_size(sizes.patch_size)
    reasons["patch_size"] = (
        f"nnU-Net's rule for {own.gigabytes:g} GB: of a median image of {_times(f'{n:g}' for n in sizes.median_shape)} "
        f"voxels, this size keeps {sizes.estimate / 1e6:.4g} million values a sample, of "
        f"{own.limit(frame.dims) / 1e6:.4g} million that fit"
    )
    if patch != sizes.patch_size:
        reasons["patch_size"] += f"; {_times(sizes.patch_size)} is brought to what {info.name} takes"
    if not info.presets:
        reasons["patch_size"] += f"; the values are those of nnU-Net's network, {info.name} may need more memory"
    return patch


def _sized_batch(frame: Frame, patch: tuple[int, ...], recipe: Recipe, reasons: dict[str, str]) -> int:
    """Return the batch: nnU-Net's where that is the planner, unless the recipe gives one."""
    own, sizes = frame.budget, frame.sizes
    if own is None or sizes is None or recipe.train.batch_size:
        return _batch(frame, patch, recipe, reasons)
    strides, _ = frame.topology(patch)
    count = nnunet.elements(patch, strides, own.num_labels, own.preset)
    reasons["batch_size"] = (
        f"nnU-Net's rule: {own.gigabytes:g} GB hold a batch of {nnunet.fitting(patch, count, own)}, at least "
        f"{nnunet.LEAST_BATCH}, at most {own.preset.share:.0%} of the {frame.dataset_voxels / 1e6:.4g} million voxels"
    )
    return nnunet.batch_size(patch, count, frame.dataset_voxels, own)


def _patch(frame: Frame, recipe: Recipe, reasons: dict[str, str]) -> tuple[int, ...]:
    asked, resize = recipe.data.patch_size, recipe.data.resize
    if asked and resize and any(p > r for p, r in zip(asked[-2:], resize, strict=True)):
        raise RecipeError(f"data.patch_size {list(asked)} is larger than data.resize {list(resize)}; reduce it")
    if asked or (resize and frame.dims == 2):
        patch = tuple(asked or resize or ())
        _check_patch(patch, "data.patch_size" if asked else "data.resize", frame, recipe)
        reasons["patch_size"] = "as the recipe says" if asked else "a whole resized image"
        return patch
    return patch_by_weight(frame, recipe.train.batch_size, reasons)


def _check_patch(patch: tuple[int, ...], key: str, frame: Frame, recipe: Recipe) -> None:
    info = frame.setting.info
    check_size(info, patch, f"{key}: {info.name} on patches of")
    if frame.setting.follows_plan and recipe.plan.strides is None and recipe.model.options.get("strides") is None:
        fitting = budget.legal(patch, frame.setting)
        # Better than padding in silence: the size asked for is the size used.
        if patch != fitting:
            divisor = pool_topology(patch, frame.setting.spacing)[2]
            raise RecipeError(
                f"{key} {list(patch)}: at this size and spacing {info.name} divides the axes by {list(divisor)}; "
                f"use {list(fitting)}, or give plan.strides"
            )


def _batch(frame: Frame, patch: tuple[int, ...], recipe: Recipe, reasons: dict[str, str]) -> int:
    if recipe.train.batch_size:
        reasons["batch_size"] = "as the recipe says"
        return recipe.train.batch_size
    return batch_by_weight(frame, patch, reasons)


def _resampling(frame: Frame, recipe: Recipe, reasons: dict[str, str]) -> dict[str, Any]:
    order = recipe.plan.image_order
    if order is not None and frame.spacing is None:
        raise RecipeError(f"plan.image_order={order} has no effect, as nothing is resampled; drop it")
    if order is not None:
        reasons["resampling"] = "as the recipe says"
    elif frame.spacing is not None:
        reasons["resampling"] = (
            "cubic for images and linear for labels, but the nearest slice where slices are over "
            f"{ANISOTROPIC:g} times as thick as the plane is fine"
        )
    return {"image": 3 if order is None else order, "label": 1, "separate_z": "auto"}


def _times(numbers: Any) -> str:
    return " x ".join(str(n) for n in numbers)
