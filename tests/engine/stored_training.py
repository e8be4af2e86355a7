"""A training of small volumes from a store; as a script it kills itself in the midst; argument: its folder."""

import os
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from unetkit.data.datasets import open_dataset
from unetkit.data.loader import TrainingLoader
from unetkit.data.splits import Split
from unetkit.engine.fit import Job, Score, fit
from unetkit.engine.losses import build_loss
from unetkit.engine.prepare import Preparation, training_cases
from unetkit.engine.step import Stepper
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import DataSection, Recipe
from unetkit.types import Labels

CASES = tuple(f"case{number}" for number in range(5))
PLAN = Plan(
    patch_size=(8, 12, 12),
    batch_size=2,
    channels=("MR",),
    labels=Labels(("a", "b"), ((1,), (2,))),
    normalization=(Normalization("zscore"),),
    transpose=(2, 1, 0),
    spacing=(1.5, 1.0, 1.0),
)


def make_preparation(root: Path) -> Preparation:
    """Three cases that train and two that validate, written below `root`."""
    for side in ("images", "labels"):
        (root / side).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(CASES):
        image = np.random.default_rng(number).normal(100, 20, (18, 16, 8 + number)).astype(np.float32)
        label = (image > 110).astype(np.uint8) + (image > 130)
        for side, data in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), root / side / f"{name}.nii.gz")
    dataset = open_dataset(DataSection(root=str(root), classes={"a": 1, "b": 2}))
    return Preparation(dataset, Split(CASES[:3], CASES[3:], ()), PLAN)


def make_recipe(home: Path | None, cache: str, **train: object) -> Recipe:
    """A recipe of 12 steps whose store, if it has one, lies below `home`."""
    store = str(home / "store") if home is not None and cache in ("disk", "auto") else None
    settings = {"epochs": 3, "steps_per_epoch": 4, "checkpoint_steps": 3, "workers": 0, "device": "cpu", **train}
    return Recipe.model_validate({"data": {"cache": cache, "store": store}, "train": settings})


def parts(store: Path) -> dict[str, int]:
    """The parts in a store and when each was written."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("v*/*/[!.]*.npy")}


def job(home: Path, name: str, cache: str) -> Job:
    """The training, with its run folder `name`."""
    recipe, preparation = make_recipe(home, cache), make_preparation(home / "data")
    (home / name).mkdir(exist_ok=True)
    loader = TrainingLoader(training_cases(preparation, recipe, False), PLAN, recipe)
    return Job(recipe, PLAN, home / name, loader, 4, lambda network: Score(0.5, {"a": 0.5}), shown=False)


def stepper() -> Stepper:
    """A network of two convolutions, its weights drawn from the seed."""
    recipe = make_recipe(None, "memory")
    torch.manual_seed(recipe.seed)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))
    network.task = PLAN.task
    return Stepper(network, build_loss(recipe.train.loss, PLAN.labels), recipe.train, torch.device("cpu"))


def die_after(step: int) -> None:
    """Have this process end by SIGKILL after a step."""
    call, done = Stepper.__call__, 0

    def last(self: Stepper, *arguments: object) -> object:
        nonlocal done
        result = call(self, *arguments)
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Stepper.__call__ = last


if __name__ == "__main__":
    die_after(8)
    fit(job(Path(sys.argv[1]), "run", "disk"), stepper())
