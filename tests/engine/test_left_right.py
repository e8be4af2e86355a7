"""Organs that differ by their side alone: mirrored samples stay true to the body, and prediction does not mirror it."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from unetkit.data.augment_table import Masks
from unetkit.data.loader import TrainingLoader
from unetkit.engine.prepare import prepare_plan, training_cases
from unetkit.infer.device import Compute
from unetkit.infer.network import build_network
from unetkit.infer.predictor import Predictor
from unetkit.recipe import Recipe
from unetkit.types import IGNORE


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory) -> Path:
    """Three volumes with two alike organs; files count from right to left, against the order of the network."""
    root = tmp_path_factory.mktemp("kidneys")
    for side in ("images", "labels"):
        (root / side).mkdir()
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    for number in range(3):
        label = np.zeros((24, 16, 12), np.uint8)
        # The first axis runs to the left (-x), so that its far end is the body's left.
        label[13 + number : 22, 4:10, 3:8], label[2 : 8 - number, 4:10, 3:8] = 1, 2
        image = (label > 0) + np.random.default_rng(number).normal(0, 0.1, label.shape)
        for folder, array in (("images", image.astype(np.float32)), ("labels", label)):
            nib.save(nib.Nifti1Image(array, affine), root / folder / f"case{number}.nii.gz")
    return root


def recipe(root: Path, pairs: list) -> Recipe:
    tree = {
        "data": {"root": str(root), "classes": {"left": 1, "right": 2}, "patch_size": [16, 24, 32]},
        "plan": {"configuration": "3d_fullres", "spacing": "native"},
        "model": {"name": "unet", "widths": [4, 8]},
        "train": {
            "augment": {"left_right": pairs, "rotation_p": 0.0, "scale_p": 0.0},
            "workers": 0,
            "batch_size": 4,
            "device": "cpu",
        },
        "infer": {"mirror": True},
    }
    return Recipe.model_validate(tree, strict=False)


@pytest.mark.parametrize("stage", [False, True])
def test_left_stays_left_in_every_sample_and_every_mask(kidneys, stage):
    asked = recipe(kidneys, [["left", "right"]])
    preparation = prepare_plan(asked)
    plan = replace(preparation.plan, previous=stage)
    cases = [
        replace(case, previous=case.label if stage else None) for case in training_cases(preparation, asked, False)
    ]
    axis = plan.transpose.index(0)
    loader = TrainingLoader(cases, plan, asked)
    loader.table = replace(loader.table, masks=Masks(channels=2 * stage))  # whole organs, for their places
    sides = set()
    for step, batch in enumerate(loader.batches()):
        for image, label in zip(batch.image, batch.label, strict=True):
            for left, right in ((label[0] == 1, label[0] == 2), *([image[1:] == 1] if stage else [])):
                places = [np.mean(np.nonzero(mask.numpy())[axis]) for mask in (left, right)]
                # World axes grow to the right, anterior and superior.
                assert places[0] < places[1]
            sides.add(float(np.mean(np.nonzero((label[0] % IGNORE).numpy())[axis])) > plan.patch_size[axis] / 2 - 0.5)
        if step == 5:
            break
    assert len(sides) == 2  # samples were mirrored, or the test would show nothing


def test_prediction_does_not_mirror_left_and_right(kidneys):
    asked = recipe(kidneys, [["left", "right"]])
    plan = prepare_plan(asked).plan
    axis = plan.transpose.index(0)
    assert plan.mirror_axes == tuple(a for a in (0, 1, 2) if a != axis)
    predictor = Predictor(build_network(asked, plan), plan, asked.infer, Compute(torch.device("cpu")))
    assert predictor.windows.mirror_axes == plan.mirror_axes
    assert prepare_plan(recipe(kidneys, [])).plan.mirror_axes == (0, 1, 2)
