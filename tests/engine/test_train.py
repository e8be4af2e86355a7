"""Training from a recipe to a report, on a folder of small images as a user has it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetkit
from unetkit.checkpoint import load_checkpoint
from unetkit.engine.log import read_log
from unetkit.engine.train import train
from unetkit.errors import CheckpointError, DataError, RecipeError, UnetkitError
from unetkit.recipe import Recipe, resolve


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A folder of ten grey images with a bright square, and their masks."""
    root = tmp_path_factory.mktemp("squares")
    draw = np.random.default_rng(0)
    for side in ("images", "masks"):
        (root / side).mkdir()
    for number in range(10):
        mask = np.zeros((32, 32), np.uint8)
        top, left = draw.integers(2, 18, 2)
        mask[top : top + 12, left : left + 12] = 1
        image = np.clip(60 + 120 * mask + draw.normal(0, 15, mask.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"case{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"case{number}.png")
    return root


def words(root: Path, output: Path, *more: str) -> list[str]:
    """A training of a few seconds as the command line takes it; later words win."""
    base = {
        "data.root": root,
        "output": output,
        "model.name": "unet",
        "model.widths": "[4,8]",
        "data.patch_size": "[32,32]",
        "train.epochs": 4,
        "train.steps_per_epoch": 5,
        "train.batch_size": 2,
        "train.validate_every": 2,
        "train.optimizer": "{name: adamw, lr: 0.02}",
        "train.device": "cpu",
        "train.workers": 0,
    }
    base |= dict(word.split("=", 1) for word in more)
    if base["model.name"] != "unet":
        del base["model.widths"]
    return [f"{key}={value}" for key, value in base.items()]


def recipe(root: Path, output: Path, *more: str) -> Recipe:
    return resolve(words(root, output, *more)).recipe


def final(run: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(run, "last", training=True)
    return found.weights | found.tensors


def test_from_a_folder_to_a_usable_model(squares, tmp_path, capfd):
    resolved = resolve(words(squares, tmp_path / "runs", "train.epochs=10", "train.ema=0.5"))
    result = train(resolved.recipe, resolved.origins)
    out, err = capfd.readouterr()
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("epoch ")]) == 10
    assert result.run == tmp_path / "runs" / f"unet_{squares.name}_001"
    names = {"recipe.yaml", "origins.json", "plan.json", "split.json", "log.jsonl", "last.safetensors"}
    names |= {"best.safetensors", "metrics.json", "metrics.csv", "report.html", "pictures", "fingerprint.json"}
    assert {path.name for path in result.run.iterdir()} == names
    assert result.dice > 0.8
    assert json.loads(json.dumps(result.to_json()))["dice"] == result.dice
    assert result.overlay.is_file()
    # what training measured is what the user's predictor gives
    split = json.loads((result.run / "split.json").read_text())
    predictor = unetkit.load(result.run, device="cpu")
    for case in split["val"]:
        mask = predictor.predict(squares / "images" / f"{case}.png")
        assert mask.data.shape == (1, 32, 32)
    validations = [r["val_dice"] for r in read_log(result.run / "log.jsonl") if "val_dice" in r]
    assert result.dice == pytest.approx(max(validations), abs=0.02)


def test_killed_at_any_time_and_resumed_ends_the_same(squares, tmp_path):
    more = ("train.checkpoint_steps=3", "train.epochs=6", "train.precision=fp32")
    alone = train(recipe(squares, tmp_path / "alone", *more), progress=False)
    command = [sys.executable, "-m", "unetkit", "train", *words(squares, tmp_path / "cut", *more, "train.epochs=6")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    run = tmp_path / "cut" / f"unet_{squares.name}_001"
    until = time.monotonic() + 120
    while not (run / "last.safetensors").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    assert 0 < load_checkpoint(run, "last").state["progress"]["step"] < 30
    resumed = train(resume=run, progress=False)
    expected, found = final(alone.run), final(run)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert resumed.dice == alone.dice
    assert load_checkpoint(run).state["progress"]["best"] == load_checkpoint(alone.run).state["progress"]["best"]
    steps = [r["step"] for r in read_log(run / "log.jsonl") if "loss" in r]
    assert steps == sorted(set(steps))


def test_select_last_leaves_no_best_and_init_starts_from_its_weights(squares, tmp_path):
    first = train(recipe(squares, tmp_path, "train.select=last", "train.epochs=6"), progress=False)
    assert not (first.run / "best.safetensors").exists()
    more = (f"train.init={first.run}", "train.epochs=1", "train.steps_per_epoch=1", "train.optimizer.lr=1e-6")
    second = train(recipe(squares, tmp_path, *more), progress=False)
    old, new = load_checkpoint(first.run).weights, load_checkpoint(second.run).weights
    assert all(torch.allclose(old[k], new[k], atol=1e-3) for k in old if "num_batches" not in k and "running" not in k)


def test_without_validation_cases_there_are_weights_and_a_report_but_no_score(squares, tmp_path):
    more = ("data.split.kind=random", "data.split.val_fraction=0", "train.epochs=1")
    result = train(recipe(squares, tmp_path, *more), progress=False)
    assert (result.dice, result.overlay, result.failures) == (None, None, {})
    page = result.report.read_text(encoding="utf-8")
    assert "No case was scored" in page
    assert all(f'id="{section}"' in page for section in ("curves", "plan", "recipe"))
    assert (result.run / "pictures" / "curves.png").is_file()
    assert json.loads((result.run / "metrics.json").read_text())["dice"] is None
    assert (result.run / "last.safetensors").is_file()
    assert str(result.run) in result.summary()


def refused(kind: type[UnetkitError], given: Recipe, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(given, progress=False)
    assert "\n" not in str(caught.value)


def test_faults_of_recipe_and_data_leave_nothing_behind(squares, tmp_path):
    output = tmp_path / "runs"
    one = tmp_path / "one"
    for side in ("images", "masks"):
        (one / side).mkdir(parents=True)
        (one / side / "a.png").write_bytes((squares / side / "case0.png").read_bytes())
    (tmp_path / "none").mkdir()
    refused(DataError, recipe(tmp_path / "none", output), "zero cases")
    refused(DataError, recipe(one, output), "only one labelled case 'a'")
    refused(RecipeError, recipe(squares, output, "train.deep_supervision=true", "model.name=swin_unet"), "no lower-")
    refused(RecipeError, recipe(squares, output, "train.loss.class_weights=[1.0]"), "1 numbers for 2 outputs")
    unwatched = ("train.patience=2", "data.split.kind=random", "data.split.val_fraction=0")
    refused(RecipeError, recipe(squares, output, *unwatched), "train.patience=2: no case validates")
    refused(RecipeError, recipe(squares, output, "train.jobs=2"), "train.jobs=2: this is a single run")
    refused(CheckpointError, recipe(squares, output, f"train.init={tmp_path}/x"), "no such file or folder")
    refused(RecipeError, recipe(squares, output, "train.device=cuda:9"), "not on this machine")
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_refused_at_once(squares, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(RecipeError, recipe(squares, tmp_path / "file" / "runs"), r"output: cannot write .*output=FOLDER")
    refused(RecipeError, recipe(squares, tmp_path, "name=../x"), "plain folder name")


def test_a_name_is_used_once(squares, tmp_path):
    (tmp_path / "mine").mkdir()
    refused(RecipeError, recipe(squares, tmp_path, "name=mine"), "exists already; choose another name, or .*resume=")


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="not a run that can be resumed"):
        train(resume=tmp_path)
    with pytest.raises(RecipeError, match="either a recipe, or resume=RUN"):
        train()


def test_ctrl_c_ends_with_130_and_a_checkpoint(squares, tmp_path):
    command = [sys.executable, "-m", "unetkit", "train", *words(squares, tmp_path, "train.epochs=10000", "name=cut")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "cut" / "log.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    step = load_checkpoint(tmp_path / "cut", "last").state["progress"]["step"]
    assert step > 0
    assert f"stopped after step {step}; go on with: unetkit train resume={tmp_path / 'cut'}\n" in err
