"""Plans in the format of nnU-Net's plans file, which nnU-Net 2.8 trains from; see `nnunet_files` for the axes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.formats.files import replacing
from unetkit.errors import RecipeError
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.grid import median_shape, median_spacing
from unetkit.plan.nnunet import preset_of
from unetkit.plan.nnunet_format import NETWORKS, NO_RESAMPLING, PLAIN, RESAMPLING, RESIDUAL, SCHEMES
from unetkit.plan.plan import Normalization, Plan

_PLANNERS = {"plain": "ExperimentPlanner"}
_NO_SPACING = 999.0
"""What nnU-Net takes as the thickness of a 2D image."""


def write_nnunet_plans(
    path: str | Path, plans: Mapping[str, Plan], fingerprint: Fingerprint, *, preset: str = "plain", dataset: str
) -> None:
    """Write plans of one data set, by the names of their configurations, so that nnU-Net can train from them.

    `preset` says which of nnU-Net's networks they are for, `dataset` is the name of its folder (Dataset001_Heart).
    The file should bear the name under which nnU-Net is to find it (`-p`). nnU-Net always cuts the zero border.
    Raises RecipeError for what it has no word for, DataError if the file cannot be written; nothing is written then.
    """
    text = json.dumps(nnunet_tree(plans, fingerprint, Path(path).stem, preset=preset, dataset=dataset), indent=4)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def nnunet_tree(
    plans: Mapping[str, Plan], fingerprint: Fingerprint, name: str, *, preset: str, dataset: str
) -> dict[str, Any]:
    """Return the contents of a plans file called `name`. Raises RecipeError for what nnU-Net has no word for."""
    order = _order(plans)
    flat = fingerprint.dims == 2
    # Back to nnU-Net's own axes: z, y, x of a file, before transposition; a 2D image is one slice.
    forward = [0, 1, 2] if flat or not order else [2 - a for a in order] if fingerprint.placed else list(order)
    moved = order or tuple(range(fingerprint.dims))
    spacing = [median_spacing(fingerprint)[a] for a in moved]
    shape = [round(float(n)) for n in np.median([[s[a] for a in moved] for s in fingerprint.cropped], axis=0)]
    return {
        "dataset_name": dataset,
        "plans_name": name,
        "original_median_spacing_after_transp": [_NO_SPACING, *spacing] if flat else spacing,
        "original_median_shape_after_transp": [1, *shape] if flat else shape,
        "image_reader_writer": "NaturalImage2DIO" if flat else "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": [forward.index(a) for a in range(3)],
        "configurations": {key: _section(key, plan, plans, fingerprint, name, preset) for key, plan in plans.items()},
        "experiment_planner_used": _PLANNERS.get(preset, f"nnUNetPlannerResEnc{preset}"),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(c): _properties(fingerprint, next(iter(plans.values())).normalization[c], c)
            for c in range(len(fingerprint.channels))
        },
    }


def _order(plans: Mapping[str, Plan]) -> tuple[int, ...]:
    orders = {plan.transpose for plan in plans.values()}
    if len(orders) != 1:
        raise RecipeError(f"{len(orders)} different transpositions; nnU-Net has one for all configurations")
    return orders.pop()


def _section(
    key: str, plan: Plan, plans: Mapping[str, Plan], fingerprint: Fingerprint, name: str, preset: str
) -> dict[str, Any]:
    """Return one configuration; a cascade inherits what it has in common with the full resolution."""
    if key == "3d_cascade_fullres" and {"3d_fullres", "3d_lowres"} <= set(plans):
        return {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    if plan.resize is not None:
        raise RecipeError(f"{key}: slices are resized to {list(plan.resize)}, which nnU-Net does not know")
    if not plan.strides:
        raise RecipeError(f"{key}: the plan has no strides; write plans of plain_unet or resenc_unet")
    target, sizes = _sizes(plan, fingerprint)
    resampling = NO_RESAMPLING if plan.spacing is None and plan.transpose else RESAMPLING
    separate = None if plan.resampling["separate_z"] == "auto" else plan.resampling["separate_z"]
    rest = {"order_z": 0, "force_separate_z": separate} if resampling == RESAMPLING else {}

    def words(is_seg: bool, order: int) -> dict[str, Any]:
        return {"is_seg": is_seg, "order": order, **rest} if rest else {}

    section = {
        "data_identifier": f"{name}_{key}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.batch_size,
        "patch_size": list(plan.patch_size),
        "median_image_size_in_voxels": sizes,
        "spacing": target,
        "normalization_schemes": [_scheme(rule, key) for rule in plan.normalization],
        "use_mask_for_norm": [rule.scheme == "zscore_mask" for rule in plan.normalization],
        "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling,
        "resampling_fn_data_kwargs": words(False, plan.resampling["image"]),
        "resampling_fn_seg_kwargs": words(True, plan.resampling["label"]),
        "resampling_fn_probabilities": resampling,
        "resampling_fn_probabilities_kwargs": words(False, 1),
        "architecture": _architecture(plan, preset),
        "batch_dice": plan.batch_dice,
    }
    if key == "3d_lowres" and "3d_cascade_fullres" in plans:
        section["next_stage"] = "3d_cascade_fullres"
    return section


def _sizes(plan: Plan, fingerprint: Fingerprint) -> tuple[list[float], list[float]]:
    """Return the spacing of the patch's axes, and the median size of the cases at it."""
    order = plan.transpose or tuple(range(fingerprint.dims))
    median = [median_spacing(fingerprint)[a] for a in order]
    target = [*median[: len(order) - plan.dims], *(plan.spacing or median[-plan.dims :])]
    shape = median_shape(
        [[s[a] for a in order] for s in fingerprint.cropped],
        [[s[a] for a in order] for s in fingerprint.spacings],
        target,
    )
    return target[-plan.dims :], list(shape[-plan.dims :])


def _scheme(rule: Normalization, where: str) -> str:
    names = {ours: theirs for theirs, ours in SCHEMES.items()}
    scheme = "zscore" if rule.scheme == "zscore_mask" else rule.scheme
    if scheme not in names:
        raise RecipeError(f"{where}: nnU-Net has no normalisation like {scheme}; use one of {', '.join(names)}")
    return names[scheme]


def _architecture(plan: Plan, preset: str) -> dict[str, Any]:
    chosen, stages = preset_of(preset), len(plan.strides)
    operators = {
        "conv_op": f"torch.nn.modules.conv.Conv{plan.dims}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{plan.dims}d",
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
    }
    return {
        "network_class_name": NETWORKS + (RESIDUAL if chosen.residual else PLAIN),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(plan.widths),
            "kernel_sizes": _lists(plan.kernels),
            "strides": _lists(plan.strides),
            "n_blocks_per_stage" if chosen.residual else "n_conv_per_stage": list(chosen.counts(stages)),
            "n_conv_per_stage_decoder": [chosen.decoder] * (stages - 1),
            "conv_bias": True,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op_kwargs": None,
            "nonlin_kwargs": {"inplace": True},
            **operators,
        },
        "_kw_requires_import": list(operators),
    }


def _lists(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(row) for row in rows]


def _properties(fingerprint: Fingerprint, rule: Normalization, channel: int) -> dict[str, float]:
    """Return what CT normalisation needs: the plan's numbers where it has them."""
    seen = fingerprint.intensities[channel]
    mean, std = (seen.mean, seen.std) if rule.mean is None or rule.std is None else (rule.mean, rule.std)
    low, high = (seen.low, seen.high) if rule.low is None or rule.high is None else (rule.low, rule.high)
    return {
        "max": high if seen.maximum is None else seen.maximum,
        "mean": mean,
        "median": seen.median,
        "min": low if seen.minimum is None else seen.minimum,
        "percentile_00_5": low,
        "percentile_99_5": high,
        "std": std,
    }
