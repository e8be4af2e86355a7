"""A trained study chooses by its cross-validation, and predicts as one."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_study import cubes, recipe

import unetkit
from unetkit.cli import main
from unetkit.engine.train import train
from unetkit.errors import RecipeError
from unetkit.evaluation import read_evaluation
from unetkit.infer.ensemble import Ensemble
from unetkit.infer.predictor import Predictor


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    return cubes(tmp_path_factory.mktemp("cubes"))


@pytest.fixture(scope="module")
def study(volumes, tmp_path_factory):
    more = ("plan.configuration=[2d,3d_fullres]", "data.split.test_fraction=0.25", "train.epochs=3")
    return train(recipe(volumes, tmp_path_factory.mktemp("study"), *more), progress=False)


def test_candidates_are_scored_on_the_same_cases_and_the_best_is_taken(study):
    choice = json.loads((study.run / "choice.json").read_text())
    assert choice == json.loads(json.dumps(study.choice))
    assert set(choice["candidates"]) == {"2d", "3d_fullres", "2d+3d_fullres"}
    assert choice["candidates"]["+".join(choice["configurations"])] == pytest.approx(max(choice["candidates"].values()))
    for name in ("2d", "3d_fullres"):
        assert choice["candidates"][name] == pytest.approx(read_evaluation(study.run / name / "crossval").dice)
    pair = read_evaluation(study.run / "ensembles" / "2d+3d_fullres")
    assert choice["cases"] == len(pair.rows) == len(read_evaluation(study.run / "2d" / "crossval").rows)
    assert choice["dice_after_postprocessing"] >= choice["dice_before_postprocessing"]
    assert "predicts with" in study.summary()


def test_folds_average_logits_and_configurations_probabilities(study, volumes):
    image = next((volumes / "images").glob("*.nii.gz"))
    runs = [study.run / "3d_fullres" / f"fold_{fold}" for fold in range(2)]
    both = unetkit.load(study.run, device="cpu", configurations=["3d_fullres"])
    assert isinstance(both, Predictor)
    single = [np.log(unetkit.load(run, device="cpu").probabilities(image).data.clip(1e-30)) for run in runs]
    # log-probabilities are logits up to a constant per voxel, which a soft-max does not see
    mean = np.exp(np.mean(single, axis=0))
    assert np.allclose(both.probabilities(image).data, mean / mean.sum(0), atol=2e-3)
    joined = unetkit.load(study.run, device="cpu", configurations=["2d", "3d_fullres"])
    assert isinstance(joined, Ensemble)
    parts = [
        unetkit.load(study.run, device="cpu", configurations=[n]).probabilities(image).data
        for n in ("2d", "3d_fullres")
    ]
    got = joined.probabilities(image).data
    assert np.allclose(got, np.mean(parts, axis=0), atol=1e-6)
    assert np.array_equal(joined.predict(image).data[0], got.argmax(0) * 1)


def test_the_command_line_predicts_and_scores_a_study(study, tmp_path, capsys):
    assert main(["predict", f"run={study.run}", "split=test", f"output={tmp_path}", "device=cpu", "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out.splitlines()[-1])["done"]
    chosen = unetkit.load(study.run, device="cpu")
    assert np.asarray(nib.load(file).dataobj).shape == (24, 24, 24) or file
    assert main(["evaluate", f"run={study.run}", "split=test", "device=cpu", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= scores["dice"] <= 1
    assert chosen.plan.labels.classes
    assert main(["evaluate", f"run={study.run}", "split=val", "device=cpu"]) == 2
    assert "CONFIGURATION/crossval" in capsys.readouterr().err


def test_members_that_do_not_exist_are_named(study):
    with pytest.raises(RecipeError, match="no finished run of '3d_lowres'"):
        unetkit.load(study.run, configurations=["3d_lowres"])
    with pytest.raises(RecipeError, match="no finished fold 7"):
        unetkit.load(study.run, folds=[7])
    with pytest.raises(RecipeError, match="a single run"):
        unetkit.load(study.run / "2d" / "fold_0", folds=[0])
