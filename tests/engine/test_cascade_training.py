"""A cascade's second stage trained from files to a report: its masks reach training, validation and prediction."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from unetkit.checkpoint import load_checkpoint
from unetkit.cli import main
from unetkit.data.cascade import StageMasks
from unetkit.data.preprocess import preprocess
from unetkit.data.volumes import read_volume
from unetkit.engine.log import read_log
from unetkit.engine.prepare import prepare_plan, training_cases, validation_cases
from unetkit.engine.train import train
from unetkit.errors import DataError, RecipeError
from unetkit.evaluation import evaluate_run
from unetkit.infer.load import load
from unetkit.recipe import Recipe, resolve

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
DISTURBED = ("train.augment.preset=nnunet", "train.checkpoint_steps=3", "train.epochs=6", "name=cut")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory) -> Path:
    """Five volumes of noise in which a blob does not show, its masks, and an earlier stage that knows it coarsely."""
    root = tmp_path_factory.mktemp("blobs")
    for side in ("data/images", "data/labels", "stage"):
        (root / side).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(5):
        field = ndimage.gaussian_filter(draw.normal(size=(36, 32, 28)), 3)
        label = (field > np.quantile(field, 0.8)).astype(np.uint8)
        coarse = label[::2, ::2, ::2].repeat(2, 0).repeat(2, 1).repeat(2, 2)
        image = draw.normal(size=label.shape).astype(np.float32)
        for folder, array in (("data/images", image), ("data/labels", label), ("stage", coarse)):
            nib.save(nib.Nifti1Image(array, AFFINE), root / folder / f"case{number}.nii.gz")
    return root


def words(root: Path, output: Path, *more: str) -> list[str]:
    base = {
        "data.root": root / "data",
        "data.previous": root / "stage",
        "data.patch_size": "[16,16,16]",
        "plan.configuration": "3d_cascade_fullres",
        "output": output,
        "model.name": "unet",
        "model.widths": "[4,8]",
        "train.epochs": 4,
        "train.steps_per_epoch": 6,
        "train.batch_size": 2,
        "train.validate_every": 2,
        "train.optimizer": "{name: adamw, lr: 0.02}",
        "train.augment.preset": "none",
        "train.device": "cpu",
        "train.workers": 0,
        "train.precision": "fp32",
    }
    base |= dict(word.split("=", 1) for word in more)
    return [f"{key}={value}" for key, value in base.items()]


def recipe(root: Path, output: Path, *more: str) -> Recipe:
    return resolve(words(root, output, *more)).recipe


def test_what_only_the_earlier_stage_knows_is_learnt_and_predicted(blobs, tmp_path):
    result = train(recipe(blobs, tmp_path), progress=False)
    assert load_checkpoint(result.run).plan.task.in_channels == 2
    # The image is noise, so that without the masks nothing could be learnt; coarse masks alone overlap by 0.8.
    assert result.dice > 0.7
    losses = [row["loss"] for row in read_log(result.run / "log.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    validated = json.loads((result.run / "split.json").read_text())["val"]
    evaluation = evaluate_run(result.run, "val", {}, device="cpu")
    assert evaluation.dice == pytest.approx(result.dice, abs=1e-6)
    output = tmp_path / "out"
    assert main(["predict", f"run={result.run}", "split=val", f"output={output}", "device=cpu"]) == 0
    predictor = load(result.run, "cpu")
    for case in validated:
        stage = blobs / "stage" / f"{case}.nii.gz"
        found = predictor.predict(blobs / "data" / "images" / f"{case}.nii.gz", previous=stage)
        np.testing.assert_array_equal(np.asanyarray(nib.load(output / f"{case}.nii.gz").dataobj), found.data[0])


@pytest.fixture(scope="module")
def alone(blobs, tmp_path_factory) -> Path:
    """A run with all augmentation, its cases in memory, that nothing disturbed."""
    return train(recipe(blobs, tmp_path_factory.mktemp("alone"), *DISTURBED), progress=False).run


def test_a_resumed_cascade_with_a_store_ends_as_one_in_memory_that_never_stopped(blobs, alone, tmp_path):
    command = words(blobs, tmp_path, *DISTURBED, "data.cache=disk", f"data.store={tmp_path / 'store'}")
    process = subprocess.Popen([sys.executable, "-m", "unetkit", "train", *command], stderr=subprocess.PIPE)
    run = tmp_path / "cut"
    until = time.monotonic() + 200
    while not (run / "last.safetensors").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    assert 0 < load_checkpoint(run, "last").state["progress"]["step"] < 36
    train(resume=run, progress=False)
    for which in ("last", "best"):
        expected, found = (load_checkpoint(r, which).weights for r in (alone, run))
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_training_and_validation_cases_hold_the_maps_of_today(blobs, tmp_path, cache):
    stage = tmp_path / "stage"
    shutil.copytree(blobs / "stage", stage)
    more = (f"data.previous={stage}", f"data.cache={cache}")
    asked = recipe(blobs, tmp_path, *more, *((f"data.store={tmp_path / 'store'}",) if cache == "disk" else ()))
    preparation = prepare_plan(asked)
    for changed in (False, True):
        training = list(training_cases(preparation, asked, False))
        validating = [case.prepared for case in validation_cases(preparation, asked, False)]
        assert len(training) + len(validating) == 5
        for case in (*training, *validating):
            image = read_volume(blobs / "data" / "images" / f"{case.id}.nii.gz")
            expected = preprocess(
                image, None, preparation.plan, previous=StageMasks(stage, preparation.plan.labels).read(case.id, image)
            )
            np.testing.assert_array_equal(case.previous, expected.previous)
            assert case.previous.any() != changed
        for file in stage.iterdir():
            nib.save(nib.Nifti1Image(np.zeros((36, 32, 28), np.uint8), AFFINE), file)


def test_faults_are_found_before_any_work(blobs, tmp_path):
    with pytest.raises(RecipeError, match=r"3d_cascade_fullres trains on label maps .* data.previous=FOLDER"):
        train(recipe(blobs, tmp_path, "data.previous=null"), progress=False)
    with pytest.raises(RecipeError, match=r"3d_fullres sees no earlier stage; drop the key"):
        train(recipe(blobs, tmp_path, "plan.configuration=3d_fullres"), progress=False)
    some = tmp_path / "some"
    some.mkdir()
    with pytest.raises(DataError, match=r"case case\d: .*some holds no label map of that name"):
        train(recipe(blobs, tmp_path, f"data.previous={some}"), progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some"]
