"""From what was measured, what the recipe asks and what the model can take to one plan, each choice with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from unetkit.data.augment_table import PRESETS
from unetkit.errors import ModelError, RecipeError
from unetkit.plan import budget, grid
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.intensity import choose_normalization
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, check_size
from unetkit.topology import Sizes, pool_topology

WORTH_CROPPING = 0.95
"""Cut the zero border if this share of the volume, or less, is left."""
_TOPOLOGY = ("strides", "kernels", "widths")


def decide(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> Plan:
    """Return the plan; what the recipe gives is taken as it is.

    Raises RecipeError for overrides that contradict each other, the data or the model, ModelError if the model
    cannot work on such images.
    """
    reasons: dict[str, str] = {}
    frame = _frame(fingerprint, recipe, info, reasons)
    patch = _patch(frame, recipe, reasons)
    batch = _batch(frame, patch, recipe, reasons)
    strides, kernels, widths = _topology(frame, patch, recipe, reasons)
    rules, reasons["normalization"] = choose_normalization(fingerprint, recipe.data, frame.crop)
    return Plan(
        patch_size=patch,
        batch_size=batch,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        normalization=rules,
        spacing=frame.spacing,
        transpose=frame.transpose,
        resize=recipe.data.resize,
        crop_nonzero=frame.crop,
        resampling=_resampling(frame, recipe, reasons),
        strides=strides,
        kernels=kernels,
        widths=widths,
        mirror_axes=_mirror_axes(frame, recipe, reasons),
        reasons=reasons,
    )


@dataclass(frozen=True)
class _Frame:
    """The grid that sizes are chosen on, all after transposition: `spacing` as in the plan, `setting` for the patch."""

    dims: int
    transpose: tuple[int, ...]
    spacing: tuple[float, ...] | None
    crop: bool
    setting: budget.Setting
    dataset_voxels: float


def _frame(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo, reasons: dict[str, str]) -> _Frame:
    """Decide dims, orientation, spacing and crop."""
    dims = _dims(fingerprint, recipe, info)
    crop = _crop(fingerprint, recipe, reasons)
    shapes = fingerprint.cropped if crop else fingerprint.shapes
    transpose, spacing, actual = _spacing(fingerprint, shapes, recipe, dims, reasons)
    order = transpose or tuple(range(fingerprint.dims))
    target = None
    if spacing is not None:
        # A 2D network never resamples across slices; their median spacing stands in.
        target = [actual[0], *spacing] if len(spacing) < len(order) else list(spacing)
    sizes = grid.median_shape(
        [[s[a] for a in order] for s in shapes], [[s[a] for a in order] for s in fingerprint.spacings], target
    )
    if recipe.data.resize:
        sizes = (*sizes[:-2], *recipe.data.resize)
    near = spacing or actual
    setting = budget.Setting(
        shape=sizes[-dims:],
        spacing=tuple(near[-dims:]),
        num_outputs=len(fingerprint.labels.classes) + 1,
        memory_gb=budget.memory_target(recipe.plan.memory_gb),
        info=info,
    )
    return _Frame(dims, transpose, spacing, crop, setting, prod(sizes) * len(fingerprint.cases))


def _dims(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> int:
    patch = recipe.data.patch_size
    if patch is not None and len(patch) > fingerprint.dims:
        raise RecipeError(f"data.patch_size {list(patch)} is for volumes, but the images are 2D; give two numbers")
    # the widest that both can, unless the recipe says; a 2D network sees volumes slice by slice
    dims = len(patch) if patch is not None else min(fingerprint.dims, max(info.dims))
    if dims not in info.dims:
        raise ModelError(
            f"{info.name} works in {' and '.join(f'{d}D' for d in info.dims)} only, this needs {dims}D; choose another "
            f"model, or for volumes a data.patch_size of {info.dims[0]} numbers"
        )
    return dims


def _crop(fingerprint: Fingerprint, recipe: Recipe, reasons: dict[str, str]) -> bool:
    asked, ratio = recipe.plan.crop_nonzero, fingerprint.crop_ratio
    if asked is not None:
        reasons["crop_nonzero"] = "as the recipe says"
        return asked
    if fingerprint.dims == 2 or recipe.data.resize:
        reasons["crop_nonzero"] = "2D images and resized slices keep their field of view"
        return False
    reasons["crop_nonzero"] = f"cutting the zero border leaves {ratio:.0%} of the median case"
    return ratio <= WORTH_CROPPING


def _spacing(
    fingerprint: Fingerprint, shapes: Any, recipe: Recipe, dims: int, reasons: dict[str, str]
) -> tuple[tuple[int, ...], tuple[float, ...] | None, tuple[float, ...]]:
    """Return transpose, the spacing to resample to (None: none), and the median spacing, in mm and transposed."""
    asked = recipe.plan.spacing
    if fingerprint.dims == 2:
        if asked not in (None, "native") or recipe.plan.transpose:
            raise RecipeError("plan.spacing and plan.transpose are for volumes, but the images are 2D; drop them")
        reasons["spacing"] = "2D images are taken as they are, in pixels"
        return (), None, grid.median_spacing(fingerprint)
    target, why = grid.target_spacing(fingerprint, shapes)
    transpose, reasons["transpose"] = grid.choose_transpose(fingerprint, target)
    if recipe.plan.transpose:
        transpose, reasons["transpose"] = _checked_transpose(recipe.plan.transpose), "as the recipe says"
    actual = tuple(grid.median_spacing(fingerprint)[a] for a in transpose)
    if recipe.data.resize:
        if asked is not None:
            raise RecipeError("data.resize decides the grid already; drop plan.spacing, or resize")
        reasons["spacing"] = f"slices are resized to {list(recipe.data.resize)} instead of resampled"
        return transpose, None, actual
    if asked == "native":
        reasons["spacing"] = "no resampling, as the recipe says"
        return transpose, None, actual
    reasons["spacing"] = why if asked is None else "as the recipe says"
    if asked is None:
        return transpose, tuple(target[a] for a in transpose)[-dims:], actual
    if len(asked) not in (3, dims):
        raise RecipeError(f"plan.spacing {list(asked)}: give 3 numbers in mm, or native")
    return transpose, tuple(asked)[-dims:], actual


def _checked_transpose(order: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(order) != [0, 1, 2]:
        raise RecipeError(f"plan.transpose {list(order)}: give the axes 0, 1 and 2 in the order the network sees them")
    return tuple(order)


def _patch(frame: _Frame, recipe: Recipe, reasons: dict[str, str]) -> tuple[int, ...]:
    asked, resize, setting = recipe.data.patch_size, recipe.data.resize, frame.setting
    if asked and resize and any(p > r for p, r in zip(asked[-2:], resize, strict=True)):
        raise RecipeError(f"data.patch_size {list(asked)} is larger than data.resize {list(resize)}; reduce it")
    if asked or (resize and frame.dims == 2):
        patch = tuple(asked or resize or ())
        _check_patch(patch, "data.patch_size" if asked else "data.resize", frame, recipe)
        reasons["patch_size"] = "as the recipe says" if asked else "a whole resized image"
        return patch
    patch = budget.choose_patch(setting)
    count = budget.elements(patch, pool_topology(patch, setting.spacing)[0], setting.num_outputs)
    reasons["patch_size"] = (
        f"the median image has {_times(setting.shape)} voxels; this size keeps {count / 1e6:.3g} million values a "
        f"sample in a plain U-Net; up to {setting.limit / 1e6:.3g} million let 2 samples fit {setting.memory_gb:g} GB"
    )
    return patch


def _check_patch(patch: tuple[int, ...], key: str, frame: _Frame, recipe: Recipe) -> None:
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


def _batch(frame: _Frame, patch: tuple[int, ...], recipe: Recipe, reasons: dict[str, str]) -> int:
    if recipe.train.batch_size:
        reasons["batch_size"] = "as the recipe says"
        return recipe.train.batch_size
    batch = budget.choose_batch(patch, frame.setting, frame.dataset_voxels)
    share = batch * prod(patch) / frame.dataset_voxels
    reasons["batch_size"] = (
        f"what {frame.setting.memory_gb:g} GB hold, but at least 2, at most {budget.LARGEST_BATCH} "
        f"and a twentieth of the data; this is {share:.2g} of it"
    )
    return batch


def _topology(
    frame: _Frame, patch: tuple[int, ...], recipe: Recipe, reasons: dict[str, str]
) -> tuple[Sizes, Sizes, tuple[int, ...]]:
    """Return strides, kernels and widths of a network that follows the plan; nothing for others."""
    info = frame.setting.info
    asked = {name: getattr(recipe.plan, name) for name in _TOPOLOGY if getattr(recipe.plan, name) is not None}
    # One truth for sizes: the plan's key or the model's option.
    twice = sorted(set(asked) & set(recipe.model.options))
    if twice:
        raise RecipeError(f"plan.{twice[0]} and model.{twice[0]} are both given; drop one of them")
    if not frame.setting.follows_plan:
        if asked:
            name = next(iter(asked))
            raise RecipeError(f"plan.{name} is not used by {info.name}, whose sizes are options of the model; drop it")
        return (), (), ()
    asked |= {name: recipe.model.options[name] for name in _TOPOLOGY if recipe.model.options.get(name) is not None}
    strides, kernels, _ = pool_topology(patch, frame.setting.spacing)
    if "strides" in asked:
        strides = _per_axis(asked["strides"], "strides", frame.dims)
        # Kernels of the rule belong to its own strides; with others a plain 3 is the safe choice.
        kernels = ((3,) * frame.dims,) * len(strides)
    if "kernels" in asked:
        kernels = _per_axis(asked["kernels"], "kernels", frame.dims)
    widths = tuple(asked.get("widths") or budget.stage_widths(len(strides), frame.dims))
    _check_topology(strides, kernels, widths, patch)
    pools = [prod(axis) for axis in zip(*strides, strict=True)]
    reasons["strides"] = (
        "as the recipe says" if "strides" in asked else
        f"axes are halved while 4 voxels are left and spacings stay within a factor of 2: by {_times(pools)} in all"
    )  # fmt: skip
    reasons["kernels"] = "as the recipe says" if "kernels" in asked else "3, but 1 along an axis twice as coarse"
    most = budget.LARGEST_WIDTH[frame.dims]
    reasons["widths"] = (
        "as the recipe says" if "widths" in asked else f"{budget.BASE_WIDTH}, doubled at each stage up to {most}"
    )
    return strides, kernels, widths


def _per_axis(rows: Any, name: str, dims: int) -> Sizes:
    """Write one number or one per axis as one per axis."""
    sizes = tuple((row,) * dims if isinstance(row, int) else tuple(row) for row in rows)
    for row in sizes:
        if len(row) != dims:
            raise RecipeError(f"plan.{name}: {list(row)} for a network of {dims} axes; give one number per axis")
    return sizes


def _check_topology(strides: Sizes, kernels: Sizes, widths: tuple[int, ...], patch: tuple[int, ...]) -> None:
    if not len(strides) == len(kernels) == len(widths):
        raise RecipeError(
            f"plan: {len(strides)} strides, {len(kernels)} kernels and {len(widths)} widths contradict each other; "
            "give one of each per stage"
        )
    divisor = [prod(axis) for axis in zip(*strides, strict=True)]
    if any(n % d for n, d in zip(patch, divisor, strict=True)):
        fitting = [-(-n // d) * d for n, d in zip(patch, divisor, strict=True)]
        raise RecipeError(
            f"plan.strides divide the patch by {divisor}, which {list(patch)} does not allow; use {fitting}"
        )


def _resampling(frame: _Frame, recipe: Recipe, reasons: dict[str, str]) -> dict[str, Any]:
    order = recipe.plan.image_order
    if order is not None and frame.spacing is None:
        raise RecipeError(f"plan.image_order={order} has no effect, as nothing is resampled; drop it")
    if order is not None:
        reasons["resampling"] = "as the recipe says"
    elif frame.spacing is not None:
        reasons["resampling"] = (
            "cubic for images and linear for labels, but the nearest slice where slices are over "
            f"{grid.ANISOTROPIC:g} times as thick as the plane is fine"
        )
    return {"image": 3 if order is None else order, "label": 1, "separate_z": "auto"}


def _mirror_axes(frame: _Frame, recipe: Recipe, reasons: dict[str, str]) -> tuple[int, ...]:
    """Return the patch axes along which the network learns to see mirrored images, for use in prediction."""
    section, preset = recipe.train.augment, PRESETS[recipe.train.augment.preset]
    if isinstance(section.mirror, bool):
        # Averaging over mirrored inputs helps only a network that has seen such.
        learnt = section.mirror and (preset.mirror_p > 0 or preset.one_of)
        axes = tuple(range(frame.dims)) if learnt else ()
    else:
        axes = tuple(sorted(set(section.mirror)))
    reasons["mirror_axes"] = f"training mirrors {len(axes)} of {frame.dims} axes"
    if section.left_right:
        # a mirrored patient has left and right classes swapped, which averaging would mix
        order = frame.transpose
        left_right = order.index(0) - (len(order) - frame.dims) if order else 1
        axes = tuple(a for a in axes if a != left_right)
        reasons["mirror_axes"] += "; prediction leaves out left-right, where classes swap"
    if recipe.infer.mirror and not axes:
        raise RecipeError("infer.mirror=true averages over mirrored images, but training shows none; drop it")
    return axes


def _times(numbers: Any) -> str:
    return " x ".join(str(n) for n in numbers)
