"""A plan that is read from a file instead of decided, with the recipe's overrides on top."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unetkit.data.layouts.found import read_json
from unetkit.errors import CheckpointError, DataError, RecipeError
from unetkit.plan.check import check_plan
from unetkit.plan.configurations import FLAT, FULL, NAMES, single
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.grid import checked_transpose
from unetkit.plan.intensity import choose_normalization
from unetkit.plan.mirrors import mirror_axes
from unetkit.plan.nnunet import PRESETS
from unetkit.plan.nnunet_files import Images, Network, read_configuration, read_tree
from unetkit.plan.plan import Plan
from unetkit.plan.stages import choose_stages
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, catalog, check_size
from unetkit.topology import pool_topology

_PLAN = TypeAdapter(Plan)
_FIELDS = ("patch_size", "batch_size", "spacing", "transpose", "crop_nonzero", "resampling", "normalization")


def read_plan(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> Plan:
    """Return the plan of `plan.file`, ours or nnU-Net's, for these data and this model.

    Raises DataError for a file that cannot be read, RecipeError for one that contradicts itself, the data, the model
    or the recipe, ShapeError for a patch that the model cannot take.
    """
    path, entry, tree = _opened(recipe)
    if "configurations" in tree:
        name = entry or _asked(recipe, tree["configurations"], info)
        images = Images(fingerprint.labels, fingerprint.channels, fingerprint.dims, fingerprint.placed)
        plan, network = read_configuration(path, name, images)
        _require_network(network, recipe, info, path)
    else:
        plan = _own(tree, path)
        _require_same(plan, fingerprint, recipe, path)
    return _overridden(plan, path, fingerprint, recipe, info)


def configurations_of_file(recipe: Recipe, info: ModelInfo) -> tuple[str, ...]:
    """Return the configurations of `plan.file` that the model can work at. Raises as `read_plan`."""
    path, entry, tree = _opened(recipe)
    if entry or "configurations" not in tree:
        raise RecipeError(f"plan.file={recipe.plan.file}: is one configuration; drop plan.configuration=all")
    held = read_tree(path)["configurations"]
    able = tuple(name for name in NAMES if name in held and (2 if name == FLAT else 3) in info.dims)
    if not able:
        raise RecipeError(f"{path}: {info.name} can work at none of {', '.join(held)}; choose another model")
    return able


def _opened(recipe: Recipe) -> tuple[Path, str, dict[str, Any]]:
    """Return path, name after the # and contents of the file."""
    name, _, entry = str(recipe.plan.file).partition("#")
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"plan.file={name}: no such file; give a plan.json of unetkit or a plans file of nnU-Net")
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise RecipeError(f"plan.file={name}: holds no plan; give a plan.json of unetkit or a plans file of nnU-Net")
    return path, entry, tree


def _asked(recipe: Recipe, held: Mapping[str, Any], info: ModelInfo) -> str:
    """Return the configuration to use of several: the one asked for, or the widest that the model can do."""
    asked = single(recipe)
    return asked or (FULL if 3 in info.dims and FULL in held else FLAT)


def _own(tree: dict[str, Any], path: Path) -> Plan:
    """Return our own plan, every part of it of the right type and none contradicting another."""
    try:
        plan = Plan.from_json(tree)
        # JSON as it came: strict types without turning lists into tuples by hand.
        _PLAN.validate_json(json.dumps(tree), strict=True)
        check_plan(plan)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path}: {key}: {first['msg']}, given {first['input']!r}; correct the file") from error
    except (CheckpointError, RecipeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return plan


def _require_same(plan: Plan, fingerprint: Fingerprint, recipe: Recipe, path: Path) -> None:
    asked = single(recipe)
    if asked is not None and asked != plan.configuration:
        raise RecipeError(f"plan.configuration={asked}, but {path} holds {plan.configuration}; drop one of the two")
    for what, theirs, here in (
        ("classes", plan.labels.classes, fingerprint.labels.classes),
        ("channels", plan.channels, fingerprint.channels),
    ):
        if theirs != here:
            raise RecipeError(
                f"{path}: made for the {what} {', '.join(theirs)}, the data have {', '.join(here)}; plan them anew"
            )


def _require_network(network: Network, recipe: Recipe, info: ModelInfo, path: Path) -> None:
    """Refuse a plan for another network than the recipe's, where that is one of nnU-Net's: sizes fit one of them."""
    if not info.presets:
        return
    preset = PRESETS[info.presets[0]]
    if network.residual != preset.residual:
        kin = [n for n, i in catalog().items() if i.presets and PRESETS[i.presets[0]].residual == network.residual]
        raise RecipeError(f"{path}: plans a {network.name}, not {info.name}; use model.name={' or '.join(kin)}")
    stages = len(network.blocks)
    for key, theirs, ours in (
        ("blocks", network.blocks, preset.counts(stages)),
        ("decoder_blocks", network.decoder, (preset.decoder,) * (stages - 1)),
    ):
        if theirs != ours and recipe.model.options.get(key) is None:
            raise RecipeError(
                f"{path}: has {list(theirs)} {key} per stage, {info.name} {list(ours)}; add model.{key}={list(theirs)}"
            )


def _overridden(plan: Plan, path: Path, fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> Plan:
    """Put what the recipe says in place of what the file says, and check all of it."""
    changes, origin = _changes(plan, recipe), f"as {path} says"
    reasons = {**dict.fromkeys(_FIELDS, origin), **plan.reasons, **dict.fromkeys(changes, "as the recipe says")}
    reasons["configuration"] = f"{plan.configuration}, read from {path}"
    data = recipe.data
    if data.normalization != "auto" or data.clip is not None:
        crop = changes.get("crop_nonzero", plan.crop_nonzero)
        changes["normalization"], reasons["normalization"] = choose_normalization(fingerprint, data, crop)
    plan = replace(plan, **changes)
    if plan.dims not in info.dims:
        raise RecipeError(f"{path}: {plan.configuration} is {plan.dims}D, {info.name} is not; change one of the two")
    own = (plan.strides, plan.kernels, plan.widths)
    if not plan.strides:
        # A plan made for another network, which had sizes of its own.
        own = (*pool_topology(plan.patch_size, plan.spacing or (1.0,) * plan.dims)[:2], ())
    strides, kernels, widths = choose_stages(info, plan.patch_size, own, recipe, reasons, origin)
    plan = replace(plan, strides=strides, kernels=kernels, widths=widths, labels=fingerprint.labels)
    check_plan(plan)
    check_size(info, plan.patch_size, f"{path}: {info.name} on patches of")
    axes = mirror_axes(plan.dims, plan.transpose, recipe, reasons)
    return replace(plan, mirror_axes=axes, reasons=reasons)


def _changes(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    """Return the fields of the plan that the recipe gives."""
    asked, data = recipe.plan, recipe.data
    given: dict[str, Any] = {
        "patch_size": data.patch_size,
        "batch_size": recipe.train.batch_size,
        "transpose": asked.transpose and checked_transpose(asked.transpose),
        "crop_nonzero": asked.crop_nonzero,
        "resize": data.resize,
        "resampling": None if asked.image_order is None else {**plan.resampling, "image": asked.image_order},
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if data.resize or asked.spacing == "native":
        return {**changes, "spacing": None}
    if asked.spacing is not None:
        changes["spacing"] = asked.spacing[-plan.dims :]
    return changes
