"""What `unetkit plan` decides, and the files it writes about that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from unetkit.data.formats.files import replacing
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe


def decide_plans(recipe: Recipe) -> tuple[str, Fingerprint, dict[str, Plan]]:
    """Return the data set's name, what was measured of it, and the plan of each configuration that the recipe names.

    Plans hold the memory and time that training on this machine is expected to take.

    Raises RecipeError, ModelError or DataError.
    """
    from unetkit.engine.study.nodes import is_study

    if is_study(recipe):
        from unetkit.engine.study.decide import decide_study

        decided = decide_study(recipe)
        return decided.dataset.name, decided.fingerprint, _foreseen(decided.plans, recipe)
    from unetkit.engine.prepare import prepare_plan

    made = prepare_plan(recipe)
    assert made.fingerprint is not None  # just measured, unlike that of a run that is gone on with
    return made.dataset.name, made.fingerprint, _foreseen({made.plan.configuration: made.plan}, recipe)


def write_plans(folder: Path, name: str, fingerprint: Fingerprint, plans: Mapping[str, Plan]) -> list[Path]:
    """Write fingerprint.json, fingerprint.html and plan.json (plan_CONFIGURATION.json of several), and return them.

    Raises DataError if a file cannot be written; those before it are whole.
    """
    from unetkit.checkpoint import versions
    from unetkit.report.fingerprint_page import render_fingerprint

    tree = fingerprint.to_json()
    reasons = {configuration: plan.reasons for configuration, plan in plans.items()}
    texts = {
        "fingerprint.json": _as_text(tree),
        "fingerprint.html": render_fingerprint(tree, name, versions()["unetkit"], reasons),
    }
    for configuration, plan in plans.items():
        texts["plan.json" if len(plans) == 1 else f"plan_{configuration}.json"] = _as_text(plan.to_json())
    for file, text in texts.items():
        with replacing(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


def write_for_nnunet(
    folder: Path, name: str, fingerprint: Fingerprint, plans: Mapping[str, Plan], recipe: Recipe
) -> list[Path]:
    """Write the plans of nnU-Net's planner in its own format too, where the network is one of its own; return them.

    The file bears the name that nnU-Net gives to plans of this preset. Raises DataError if it cannot be written,
    RecipeError for an override that nnU-Net has no word for.
    """
    from unetkit.plan.nnunet_write import write_nnunet_plans
    from unetkit.registry import model_info

    presets = model_info(recipe.model.name).presets
    if recipe.plan.planner != "nnunet" or not presets:
        return []
    preset = recipe.plan.preset or presets[0]
    path = folder / ("nnUNetPlans.json" if preset == "plain" else f"nnUNetResEncUNet{preset}Plans.json")
    write_nnunet_plans(path, plans, fingerprint, preset=preset, dataset=name)
    return [path]


def _foreseen(plans: Mapping[str, Plan], recipe: Recipe) -> dict[str, Plan]:
    """Return the plans with the memory and time that training on this machine is expected to take."""
    from unetkit.engine.expectation import foreseen
    from unetkit.infer.device import pick_device

    device = pick_device(recipe.train.device)
    return {name: foreseen(plan, recipe, device) for name, plan in plans.items()}


def plan_text(plan: Plan, fingerprint: Fingerprint, recipe: Recipe) -> str:
    """Return a plan for people: its values, then a reason for each decision."""
    values = [f"{key} = {json.dumps(value)}" for key, value in plan.to_json().items() if key != "reasons"]
    reasons = [f"{key}: {why}" for key, why in plan.reasons.items()]
    return "\n".join([*values, f"training: {_training(plan, fingerprint, recipe)}", "", *reasons])


def plan_table(plan: Plan, fingerprint: Fingerprint, recipe: Recipe) -> str:
    """Return what matters most of a plan, a line each."""
    own = "the model's own"
    rows = {
        "configuration": plan.configuration,
        "model": recipe.model.name,
        "spacing": "as it is" if plan.spacing is None else f"{_times(plan.spacing)} mm",
        "patch": _times(plan.patch_size),
        "batch": str(recipe.train.batch_size or plan.batch_size),
        "strides": _times(prod(axis) for axis in zip(*plan.strides, strict=True))
        if plan.strides
        else "the model's own",
        "widths": ", ".join(map(str, plan.widths)) or own,
        "normalization": ", ".join(dict.fromkeys(rule.scheme for rule in plan.normalization)),
        "training": _training(plan, fingerprint, recipe),
    }
    return "\n".join([*(f"{key:<17}{value}" for key, value in rows.items()), "", "reasons: add explain=true"])


def _training(plan: Plan, fingerprint: Fingerprint, recipe: Recipe) -> str:
    """Return the expected memory and times in words."""
    from unetkit.engine.expectation import in_words

    train = recipe.train
    samples = len(fingerprint.cases)
    if fingerprint.dims > plan.dims:  # slices along the axis that comes first
        samples = sum(shape[plan.transpose[0] if plan.transpose else 0] for shape in fingerprint.shapes)
    a_step = plan.batch_size * train.accumulate
    told = in_words(plan.expected, train.steps_per_epoch or max(1, -(-samples // a_step)), train.epochs)
    return f"expected {told}" if told else "not foreseen, as the network cannot be counted without running it"


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)


def _as_text(tree: Any) -> str:
    return json.dumps(tree, indent=1) + "\n"
