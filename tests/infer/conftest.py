"""A network of a few weights, saved as a run, to predict with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unetkit.checkpoint import Checkpoint, save_checkpoint, versions
from unetkit.infer.network import build_network
from unetkit.plan import Normalization, Plan
from unetkit.recipe.schema import Recipe
from unetkit.types import Labels

MODEL = {"name": "unet", "widths": [4, 8]}


def _plan(**changes) -> Plan:
    """A plan for 3D volumes of one channel and two classes."""
    parts = {
        "patch_size": (16, 16, 16),
        "batch_size": 2,
        "channels": ("MR",),
        "labels": Labels(("organ", "lesion"), ((1,), (2,))),
        "normalization": (Normalization("zscore"),),
        "spacing": (2.0, 1.0, 1.0),
        "transpose": (2, 0, 1),
        "mirror_axes": (0, 1, 2),
    }
    return Plan(**parts | changes)


def _plan_2d(**changes) -> Plan:
    """A plan for RGB pictures."""
    parts = {
        "patch_size": (32, 32),
        "channels": ("red", "green", "blue"),
        "normalization": (Normalization("rgb"),) * 3,
        "spacing": None,
        "transpose": (),
        "mirror_axes": (0, 1),
    }
    return _plan(**parts | changes)


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Return a function (changed fields) -> plan for volumes of one channel."""
    return _plan


@pytest.fixture
def make_plan_2d() -> Callable[..., Plan]:
    """Return a function (changed fields) -> plan for RGB pictures."""
    return _plan_2d


@pytest.fixture
def save_run(tmp_path) -> Callable[..., Path]:
    """Return a function (plan, recipe tree) -> run folder with an untrained network in best.safetensors."""

    def save(plan: Plan, **tree) -> Path:
        torch.manual_seed(0)
        recipe = Recipe.model_validate({"model": MODEL, "train": {"precision": "fp32"}, **tree}, strict=False)
        network = build_network(recipe, plan)
        for parameter in network.parameters():  # outputs far apart, so that rounding decides no label
            torch.nn.init.normal_(parameter, std=0.5)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        checkpoint = Checkpoint(network.state_dict(), recipe, plan, versions(), {})
        save_checkpoint(folder / "best.safetensors", checkpoint)
        return folder

    return save
