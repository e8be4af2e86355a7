"""The planner's own sizes: patch and batch as large as the memory target lets the model have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from unetkit.plan import budget
from unetkit.plan.configurations import CASCADE, Frame
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.plan import Plan
from unetkit.plan.stages import choose_stages
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo

Measure = Callable[[Plan], float]
"""(plan, of which sizes, channels and labels are decided) -> GB that its training step takes."""


def as_built(info: ModelInfo, recipe: Recipe) -> ModelInfo:
    """Return the model with the sizes it takes under the recipe's options and strides."""
    given = {} if recipe.plan.strides is None else {"strides": recipe.plan.strides}
    return info.fitted({**recipe.model.options, **given})


def weighed(frame: Frame, fingerprint: Fingerprint, recipe: Recipe, measure: Measure | None) -> Frame:
    """Return the frame with a setting that measures the steps of the model that the recipe trains."""
    if measure is None:
        return frame

    def weigh(patch: tuple[int, ...], batch: int) -> float:
        own = (*frame.topology(patch), ())
        strides, kernels, widths = choose_stages(frame.setting.info, patch, own, recipe, {})
        draft = Plan(
            patch_size=patch,
            batch_size=batch,
            channels=fingerprint.channels,
            labels=fingerprint.labels,
            normalization=(),
            strides=strides,
            kernels=kernels,
            widths=widths,
            previous=frame.name == CASCADE or recipe.plan.previous,
        )
        return measure(draft)

    return replace(frame, setting=replace(frame.setting, weigh=weigh))


def patch_by_weight(frame: Frame, batch: int | None, reasons: dict[str, str]) -> tuple[int, ...]:
    """Return the largest patch with room for a batch worth having, or for the one asked for."""
    setting = frame.setting
    patch, count = budget.choose_patch(setting, frame.dataset_voxels, batch)
    first = budget.descent(setting)[0]
    how = "all of the median image of" if patch == first else f"the largest of the sizes below {_times(first)}, within"
    reasons["patch_size"] = (
        f"{how} {_times(setting.shape)} voxels, of which a batch of {count} takes an estimated "
        f"{setting.gb(patch, count):.3g} GB of {setting.memory_gb:.3g}"
    )
    return patch


def batch_by_weight(frame: Frame, patch: tuple[int, ...], reasons: dict[str, str]) -> int:
    """Return the largest batch with room in the target that the data set is large enough for."""
    setting, voxels = frame.setting, frame.dataset_voxels
    batch = budget.choose_batch(patch, setting, voxels)
    most = budget.most_samples(patch, voxels)
    reasons["batch_size"] = (
        f"takes an estimated {setting.gb(patch, batch):.3g} GB of {setting.memory_gb:.3g}; a step is "
        f"{batch * prod(patch) / voxels:.2g} of the training voxels, and batches over {most} are not wanted (a "
        f"twentieth of the voxels, {budget.LARGEST_BATCH[setting.dims]} at most, {budget.SMALLEST_BATCH} at least)"
    )
    return batch


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in numbers)
