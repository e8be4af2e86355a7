"""What `unetkit plan` decides, and the files it writes about that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetkit.data.formats.files import replacing
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe


def decide_plans(recipe: Recipe) -> tuple[str, Fingerprint, dict[str, Plan]]:
    """Return the data set's name, what was measured of it, and the plan of each configuration that the recipe names.

    Raises RecipeError, ModelError or DataError.
    """
    from unetkit.engine.study.nodes import is_study

    if is_study(recipe):
        from unetkit.engine.study.decide import decide_study

        decided = decide_study(recipe)
        return decided.dataset.name, decided.fingerprint, dict(decided.plans)
    from unetkit.engine.prepare import prepare_plan

    made = prepare_plan(recipe)
    assert made.fingerprint is not None  # just measured, unlike that of a run that is gone on with
    return made.dataset.name, made.fingerprint, {made.plan.configuration: made.plan}


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


def plan_text(plan: Plan) -> str:
    """Return a plan for people: its values, then a reason for each decision."""
    values = [f"{key} = {json.dumps(value)}" for key, value in plan.to_json().items() if key != "reasons"]
    return "\n".join([*values, "", *(f"{key}: {why}" for key, why in plan.reasons.items())])


def _as_text(tree: Any) -> str:
    return json.dumps(tree, indent=1) + "\n"
