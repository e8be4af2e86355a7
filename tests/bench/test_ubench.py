"""U-Bench's protocol: the recipe trains as theirs does, scores as theirs does, and says what is wrong with it."""

import json

import numpy as np
import pytest
from PIL import Image

from unetkit import create_model
from unetkit.bench.anchors import UBENCH_IOU
from unetkit.bench.folder import open_bench
from unetkit.bench.job import run_job
from unetkit.bench.operations import trainable, without_content
from unetkit.bench.report import method
from unetkit.data.datasets import open_dataset
from unetkit.data.splits import make_split
from unetkit.metrics import describe
from unetkit.recipe.bench import checked_bench, jobs_of, read_bench
from unetkit.recipe.merge import merged
from unetkit.registry import model_info

CELLS = {"data": {"dataset": "phantom2d", "cases": 5, "generator": {"size": [32, 32]}, "patch_size": [32, 32]}}
TREE = {
    "models": ["unext_s"],
    "datasets": {"cells": CELLS},
    "seeds": [41],
    "protocol": "ubench",
    "budget": {"steps": 2, "validations": 1},
}
# Millions of parameters that their networks have, with three channels and one output.
PARAMS_M = {
    "unet": 34.527041,
    "attention_unet": 34.878573,
    "r2unet": 39.091393,
    "unet3p": 26.971777,
    "resunetpp": 14.482564,
    "unext": 1.471921,
    "cmunext": 3.149185,
    "egeunet": 0.053374,
    "malunet": 0.177943,
    "transunet": 105.322001,
    "h2former": 33.692576,
}


@pytest.fixture(scope="module")
def shipped():
    bench, _ = read_bench(["recipe=bench_ubench", "data_root=data"])
    return bench, list(jobs_of(bench))


def test_the_recipe_trains_as_u_bench(shipped):
    bench, jobs = shipped
    assert (bench.protocol, bench.seeds, {job.recipe.seed for job in jobs}) == ("ubench", [41], {41})
    for job in jobs:
        train, data = job.recipe.train, job.recipe.data
        assert (train.epochs, train.steps_per_epoch, train.batch_size, train.validations) == (300, None, 8, 300)
        optimizer = train.optimizer
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.01, 0.9, False)
        assert (optimizer.weight_decay, train.schedule.name, train.schedule.power) == (1e-4, "poly", 0.9)
        assert (train.schedule.warmup, train.schedule.min_lr, train.clip_norm, train.ema) == (0, 0, None, 0)
        loss = train.loss
        assert (loss.name, loss.ce_weight / loss.dice_weight, loss.batch_dice) == ("dice_bce", 0.5, False)
        assert (train.precision, train.select, train.patience, data.regions) == ("fp32", "best", None, True)
        side = 224 if job.model in ("swin_unet", "missformer") else 256
        assert data.resize == data.patch_size == (side, side)
        assert job.recipe.evaluate.empty == "zero"
        assert not job.recipe.train.augment.intensity or job.dataset in ("kvasir", "dsb")
        drawn = (train.augment.preset, train.augment.mirror)
        assert drawn == (("none", False) if job.dataset == "dsb" else ("light", True))
    assert {name: bench.anchors_of(name) for name in bench.datasets} == {n: f"ubench:{n}" for n in bench.datasets}
    assert set(bench.datasets) <= set(UBENCH_IOU)


def test_its_networks_take_these_pictures_and_are_as_large_as_theirs(shipped):
    sizes = {}
    for job in {job.model: job for job in shipped[1]}.values():
        model, size = job.recipe.model, job.recipe.data.patch_size
        assert model_info(model.name).legal_size(size) == size
        task = {"in_channels": 3, "num_classes": 1, "patch_size": size}
        network = without_content(lambda model=model, task=task: create_model(model.name, **task, **model.options))
        sizes[job.model] = trainable(network) / 1e6
    assert {name: sizes[name] for name in PARAMS_M} == pytest.approx(PARAMS_M, abs=1e-6)


def test_drive_is_chosen_and_scored_on_its_test_pictures(shipped, tmp_path):
    place = tmp_path / "drive"
    for side, first in (("training", 21), ("test", 1)):
        for kind, ending in (("images", f"{side}.tif"), ("1st_manual", "manual1.gif"), ("mask", f"{side}_mask.gif")):
            (place / side / kind).mkdir(parents=True)
            for number in range(first, first + 20):
                picture = np.full((8, 8, 3) if kind == "images" else (8, 8), 255, np.uint8)
                picture[:4] = 0
                Image.fromarray(picture).save(place / side / kind / f"{number:02d}_{ending}")
    data = next(job for job in shipped[1] if job.dataset == "drive").recipe.data
    data = data.model_copy(update={"root": str(place)})
    dataset = open_dataset(data)
    assert dataset.labels.regions
    split = make_split(dataset, data.split)
    assert (len(split.train), len(split.test)) == (20, 0)
    assert split.val == tuple(f"{n:02d}_test" for n in range(1, 21))


def pictures(place, count):
    """A folder of pictures and of grey masks, the first two of which show nothing."""
    for kind in ("images", "masks"):
        (place / kind).mkdir(parents=True)
        for number in range(count):
            picture = np.random.default_rng(number).integers(0, 255, (40, 36, 3), np.uint8)
            mask = picture[..., 0] // 4 + (128 if number > 1 else 0)
            Image.fromarray(picture if kind == "images" else mask).save(place / kind / f"{number}.png")


def test_a_job_is_scored_on_the_part_it_was_chosen_on_and_by_their_rule_of_empty_cases(shipped, tmp_path):
    pictures(tmp_path / "data" / "busi", 6)
    quick = {"data": {"resize": [32, 32], "patch_size": [32, 32]}, "train": {"workers": 0, "batch_size": 2}}
    # as shipped, but for its size
    empty = {"data": {"split": {"kind": "fixed", "val": ["0", "1"]}}}
    keys = {
        "recipe": merged(shipped[0].recipe, quick),
        "datasets": {"busi": merged(shipped[0].datasets["busi"], empty)},
    }
    tree = {**TREE, **keys, "data_root": str(tmp_path / "data"), "output": str(tmp_path)}
    folder = open_bench(checked_bench(tree), "theirs")
    (job,) = folder.jobs
    result = run_job(folder, job, "cpu")
    assert result["num_classes"] == 1  # one output under a sigmoid
    split = json.loads((folder.of(job) / "run" / "split.json").read_text())
    assert (result["split"], set(result["scores"]["cases"])) == ("val", set(split["val"]))
    assert result["scores"]["definitions"]["empty"] == describe(job.recipe.evaluate)["empty"]
    # whether or not the network leaves them empty
    assert {c["foreground"]["iou"] for c in result["scores"]["cases"].values()} == {0.0}


def test_the_recipes_own_rule_of_empty_cases_goes_before_the_protocols():
    (job,) = jobs_of(checked_bench({**TREE, "recipe": {"evaluate": {"empty": "skip"}}}))
    assert job.recipe.evaluate.empty == "skip"


def test_the_method_names_the_faults_and_what_is_not_the_same(shipped):
    told = method(shipped[0], "iou", False)
    assert told["Training"].startswith("300 passes over the training cases, alike for every model; 1 seed")
    faults = told["Faults of U-Bench's protocol"]
    for fault in (
        "picked on the reported cases",
        "one seed",
        "pretrained and random",
        "misses attention",
        "no intervals",
    ):
        assert fault in faults
    for difference in ("ImageNet", "own grid", "by Dice", "coarser ones count less", "splits are drawn"):
        assert difference in told["Not as in U-Bench"]
    honest = method(checked_bench({**TREE, "protocol": "held_out"}), "iou", False)
    assert not any("U-Bench" in question for question in honest)
