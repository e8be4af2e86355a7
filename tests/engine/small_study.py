"""Data and recipes of studies that train in seconds: bright squares and cubes on noise, and a network of two stages."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from unetkit.recipe import Recipe, resolve


def squares(root: Path, count: int = 4) -> Path:
    """Write grey images of 16 x 16 and their masks."""
    draw = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((16, 16), np.uint8)
        top, left = draw.integers(1, 8, 2)
        mask[top : top + 7, left : left + 7] = 1
        image = np.clip(60 + 120 * mask + draw.normal(0, 15, mask.shape), 0, 255).astype(np.uint8)
        for side, pixels in (("images", image), ("masks", mask)):
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / side / f"case{number}.png")
    return root


def cubes(root: Path, count: int = 4) -> Path:
    """Write volumes of 18 x 18 x 18 and their labels."""
    draw = np.random.default_rng(0)
    for number in range(count):
        label = np.zeros((18, 18, 18), np.uint8)
        label[tuple(slice(a, a + 8) for a in draw.integers(1, 9, 3))] = 1
        image = (100 * label + draw.normal(0, 15, label.shape)).astype(np.float32)
        for side, voxels in (("images", image), ("labels", label)):
            (root / side).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / side / f"case{number}.nii.gz")
    return root


def words(root: Path, output: Path, *more: str) -> list[str]:
    """A study of two folds as the command line takes it; later words win."""
    base = {
        "data.root": root,
        "output": output,
        "name": "study",
        "data.split.kind": "kfold",
        "data.split.folds": 2,
        "data.split.fold": "all",
        "model.name": "unet",
        "model.widths": "[4,8]",
        "plan.planner": "nnunet",  # whose sizes follow from rules, with nothing to measure
        "train.epochs": 2,
        "train.steps_per_epoch": 2,
        "train.batch_size": 2,
        "train.validate_every": 1,
        "train.optimizer": "{name: adamw, lr: 0.02}",
        "train.precision": "fp32",
        "train.device": "cpu",
        "train.workers": 0,
        "evaluate.distances": "false",
    }
    base |= dict(word.split("=", 1) for word in more)
    return [f"{key}={value}" for key, value in base.items()]


def recipe(root: Path, output: Path, *more: str) -> Recipe:
    """The same as a recipe."""
    return resolve(words(root, output, *more)).recipe
