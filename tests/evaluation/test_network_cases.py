"""A saved network on the cases of a data set: scores, failures, splits and pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from unetkit.checkpoint import Checkpoint, save_checkpoint, versions
from unetkit.data.datasets import open_dataset
from unetkit.errors import DataError, RecipeError
from unetkit.evaluation import (
    cases_of_run,
    evaluate_cases,
    evaluate_dataset,
    evaluate_folders,
    evaluate_run,
    require_scores,
    write_evaluation,
)
from unetkit.infer.folder import predict_cases
from unetkit.infer.load import load
from unetkit.infer.network import build_network
from unetkit.metrics import dice
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import DataSection, EvaluateSection, Recipe
from unetkit.types import Labels

PLAN = Plan(
    patch_size=(32, 32),
    batch_size=2,
    channels=("image",),
    labels=Labels(("disc",), ((255,),)),
    normalization=(Normalization("zscore"),),
)


@pytest.fixture
def data(tmp_path):
    """Five grey pictures of 40 x 36 with a bright disc, as images/ and masks/."""
    rows, columns = np.indices((40, 36))
    for number in range(5):
        mask = (rows - 18) ** 2 + (columns - 14 - number) ** 2 < 81
        noise = np.random.default_rng(number).integers(0, 60, mask.shape)
        for name, pixels in (("images", mask * 120 + noise), ("masks", mask * 255)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"c{number}.png")
    return tmp_path / "data"


@pytest.fixture
def run(data, tmp_path):
    """A run folder with an untrained network, and a split that tests two cases."""
    recipe = Recipe.model_validate(
        {"model": {"name": "unet", "widths": [4, 8]}, "data": {"root": str(data)}, "train": {"precision": "fp32"}},
        strict=False,
    )
    torch.manual_seed(0)
    network = build_network(recipe, PLAN)
    folder = tmp_path / "run"
    folder.mkdir()
    save_checkpoint(folder / "best.safetensors", Checkpoint(network.state_dict(), recipe, PLAN, versions(), {}))
    split = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"], "how": "by hand"}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_scores_are_those_of_the_predictor(run, data):
    seen = []
    scored = evaluate_run(run, "test", {}, device="cpu", progress=lambda done, of: seen.append((done, of)))
    assert list(scored.rows) == ["c3", "c4"]
    assert seen == [(1, 2), (2, 2)]
    predicted = load(run, device="cpu").predict(data / "images" / "c4.png").data[0]
    truth = np.asarray(Image.open(data / "masks" / "c4.png")) > 0
    assert scored.rows["c4"]["disc"]["dice"] == dice(predicted == 1, truth)
    assert scored.about["model"] == "unet"
    assert scored.pictures["best"].picture.image.shape == (40, 36)


def test_predicted_files_score_as_the_run_does(run, data, tmp_path):
    """Files hold the values of the training labels (255 here), so that both ways mean the same classes."""
    predict_cases(load(run, device="cpu"), cases_of_run(run, "test", {}), tmp_path / "out")
    (tmp_path / "truth").mkdir()
    for name in ("c3.png", "c4.png"):
        (tmp_path / "truth" / name).write_bytes((data / "masks" / name).read_bytes())
    section, rules = DataSection(classes={"disc": 255}), EvaluateSection()
    scored = evaluate_folders(tmp_path / "out", tmp_path / "truth", data=section, rules=rules)
    assert scored.rows == evaluate_run(run, "test", {}, device="cpu").rows


def test_predicted_files_score_against_the_data_set(run, data, tmp_path):
    """The data set's own labels, or a side of its split; with the image behind the labels."""
    predict_cases(load(run, device="cpu"), cases_of_run(run, "test", {}), tmp_path / "out")
    fixed = {"kind": "fixed", "train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"]}
    section = DataSection.model_validate({"root": str(data), "split": fixed})
    rules = EvaluateSection()
    scored = evaluate_dataset(tmp_path / "out", "test", data=section, rules=rules)
    expected = evaluate_run(run, "test", {}, device="cpu")
    assert [of["foreground"] for of in scored.rows.values()] == [of["disc"] for of in expected.rows.values()]
    assert scored.pictures["best"].picture.image.any()
    assert scored.about["split"] == "test"
    with pytest.raises(DataError, match=r"no prediction for c0, c1, c2 \(3 of 5 cases in "):
        evaluate_dataset(tmp_path / "out", None, data=section, rules=rules)
    (tmp_path / "out" / "c3.png").write_bytes(b"broken")
    assert "c3" in evaluate_dataset(tmp_path / "out", "test", data=section, rules=rules).failures
    no_val = DataSection.model_validate({"root": str(data), "split": fixed | {"train": ["c0", "c1", "c2"], "val": []}})
    with pytest.raises(DataError, match=r"the val split has no case; choose split=train or test"):
        evaluate_dataset(tmp_path / "out", "val", data=no_val, rules=rules)


def test_a_case_that_fails_is_named_and_the_others_go_on(run, data):
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(data / "masks" / "c1.png")
    recipe = Recipe.model_validate({"data": {"root": str(data)}}, strict=False)
    dataset = open_dataset(recipe.data)
    (data / "images" / "c2.png").write_bytes(b"broken")
    scored = evaluate_cases(load(run, device="cpu"), dataset, ["c0", "c1", "c2"], recipe)
    assert list(scored.rows) == ["c0", "c1"]
    assert "cannot be read" in scored.failures["c2"]
    assert scored.summary["presence"]["disc"]["absent"] == 1
    assert "not scored: c2" in scored.table()
    assert require_scores(scored) is scored
    with pytest.raises(DataError, match=r"no case could be evaluated, 1 failed; c2: .*cannot be read"):
        require_scores(evaluate_cases(load(run, device="cpu"), dataset, ["c2"], recipe))


def test_no_case_gives_no_score_but_a_report(run, data, tmp_path):
    recipe = Recipe.model_validate({"data": {"root": str(data)}}, strict=False)
    none = evaluate_cases(load(run, device="cpu"), open_dataset(recipe.data), [], recipe)
    assert (none.to_json()["dice"], none.to_csv()) == (None, "case,class,metric,value\n")
    assert "0 cases" in none.table()
    assert "No case was scored" in write_evaluation(none, tmp_path / "out").read_text(encoding="utf-8")


def test_settings_change_the_run(run):
    settings = {"evaluate": {"distances": False}, "infer": {"overlap": 0.25}}
    assert "hd95" not in evaluate_run(run, "val", settings, device="cpu").rows["c2"]["disc"]
    with pytest.raises(RecipeError, match=r"evaluate\.empty"):
        evaluate_run(run, "val", {"evaluate": {"empty": "nothing"}}, device="cpu")
    with pytest.raises(RecipeError, match=r"data\.split: .* has divided its cases already"):
        cases_of_run(run, "val", {"split": {"kind": "kfold"}})


def test_cases_of_a_split_and_of_other_data(run, data, tmp_path):
    assert [case.id for case in cases_of_run(run, "train", {})] == ["c0", "c1"]
    other = tmp_path / "other"
    for name in ("images", "masks"):
        (other / name).mkdir(parents=True)
        (other / name / "new7.png").write_bytes((data / name / "c0.png").read_bytes())
    assert [case.id for case in cases_of_run(run, "test", {"root": str(other)})] == ["new7"]


def test_an_empty_split_is_refused(run):
    (run / "split.json").write_text(json.dumps({"train": ["c0"], "val": ["c2"], "test": []}))
    with pytest.raises(DataError, match=r"the test split has no case; choose split=train or val"):
        cases_of_run(run, "test", {})
    (run / "split.json").write_text("{")
    with pytest.raises(DataError, match=r"split.json: cannot be read"):
        cases_of_run(run, "test", {})
