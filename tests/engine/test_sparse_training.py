"""Scribbles on heart scans: what nobody has labelled neither teaches nor counts, for classes and for regions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unetkit.data.loader import TrainingLoader
from unetkit.engine.log import read_log
from unetkit.engine.losses import build_loss
from unetkit.engine.prepare import Preparation, prepare_plan, training_cases, validation_cases
from unetkit.engine.train import train
from unetkit.infer.network import build_network
from unetkit.metrics import evaluate_case
from unetkit.recipe import Recipe
from unetkit.types import IGNORE

CLASSES = {"right ventricle": 1, "muscle": 2, "left ventricle": 3}
OVERLAPPING = {"heart": [1, 2, 3], "muscle": 2}


@pytest.fixture(scope="module")
def scribbled(shared_data, tmp_path_factory) -> Path:
    """A folder with the images of acdc_scribble and, as labels, its scribbles; 4 says that nobody looked."""
    root = tmp_path_factory.mktemp("scribbled")
    (root / "images").symlink_to(shared_data / "acdc_scribble" / "images")
    (root / "labels").symlink_to(shared_data / "acdc_scribble" / "scribbles")
    return root


def recipe(root: Path, output: Path, regions: bool) -> Recipe:
    data = {
        "root": str(root),
        "classes": OVERLAPPING if regions else CLASSES,
        "regions": regions,
        "ignore": [4],
        "patch_size": [4, 48, 48],
        "split": {"kind": "fixed", "val": ["patient005_frame01"]},
    }
    steps = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 2, "validate_every": 3, "precision": "fp32", "workers": 0}
    how = {"optimizer": {"name": "adamw", "lr": 0.01}, "device": "cpu", "augment": {"intensity": False}}
    model = {"name": "unet", "widths": [4, 8]}
    # Native spacing: interpolation would move lines of one voxel.
    tree = {"data": data, "train": steps | how, "model": model, "plan": {"spacing": "native"}, "output": str(output)}
    return Recipe.model_validate(tree, strict=False)


def prepared(asked: Recipe) -> tuple[Preparation, TrainingLoader]:
    preparation = prepare_plan(asked)
    return preparation, TrainingLoader(training_cases(preparation, asked, False), preparation.plan, asked)


@pytest.mark.parametrize("regions", [False, True])
def test_only_what_is_annotated_has_a_gradient(scribbled, tmp_path, regions):
    asked = recipe(scribbled, tmp_path, regions)
    preparation, loader = prepared(asked)
    plan = preparation.plan
    network = build_network(asked, plan)
    loss = build_loss(asked.train.loss, plan.labels, plan.batch_dice)
    for step, batch in enumerate(loader.batches()):
        ignored = (batch.label == IGNORE).all(1, keepdim=True)
        assert ignored.float().mean() > 0.5
        # Scribbles cover few voxels: without a look at where they are most patches would show none.
        assert (~ignored).flatten(1).any(1).all()
        outputs = network(batch.image)  # with deep supervision the finest first
        outputs[0].retain_grad()
        loss(outputs, batch.label).backward()
        of_voxel = outputs[0].grad.abs().sum(1, keepdim=True)
        assert (of_voxel[ignored] == 0).all()
        assert (of_voxel[~ignored] > 0).float().mean() > 0.9
        if step == 2:
            break


@pytest.mark.parametrize("regions", [False, True])
def test_patches_on_foreground_are_centred_on_scribbles(scribbled, tmp_path, regions):
    asked = recipe(scribbled, tmp_path, regions)
    _, loader = prepared(asked)
    foreground = []
    for step, batch in enumerate(loader.batches()):
        # The last of a batch of two is the one that must hold foreground, of a class drawn at random.
        known = torch.where(batch.label[1] == IGNORE, 0, batch.label[1])
        assert known.any()
        foreground.append(known)
        if step == 8:
            break
    assert all(any((found == value).any() for found in foreground) for value in ((1,) if regions else (1, 2, 3)))


def test_scores_look_at_annotated_voxels_alone(scribbled, tmp_path):
    asked = recipe(scribbled, tmp_path, False)
    preparation = prepare_plan(asked)
    (case,) = validation_cases(preparation, asked, False)
    labels, spacing = preparation.plan.labels, case.prepared.geometry.input_spacing
    guess = np.where(case.labels == IGNORE, np.random.default_rng(0).integers(0, 4, case.labels.shape), case.labels)
    scores = evaluate_case(guess.astype(np.uint8), case.labels, labels, spacing, asked.evaluate)
    assert [scores[name]["dice"] for name in CLASSES] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("regions", [False, True])
def test_a_training_on_scribbles_learns_and_reports(scribbled, tmp_path, regions):
    result = train(recipe(scribbled, tmp_path, regions), progress=False)
    losses = [row["loss"] for row in read_log(result.run / "log.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]
    assert 0 <= result.dice <= 1
