"""Studies: configurations and folds from one command to one report, gone on with wherever they stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import cubes, recipe, squares, words

from unetkit.checkpoint import load_checkpoint
from unetkit.cli import main
from unetkit.engine.run_folder import RunFolder
from unetkit.engine.study.decide import reopen_study, start_study
from unetkit.engine.study.folder import read_study
from unetkit.engine.train import StudyResult, TrainResult, train
from unetkit.errors import CheckpointError, RecipeError
from unetkit.evaluation import read_evaluation

# a patch that sees little of a volume, so that the data have a lower resolution
CASCADE = ("plan.configuration=3d_cascade_fullres", "plan.planner=unetkit", "data.patch_size=[8,8,8]")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Runs at once share the threads, and how sums are split over these shows in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    return cubes(tmp_path_factory.mktemp("cubes"))


@pytest.fixture(scope="module")
def whole(volumes, tmp_path_factory) -> StudyResult:
    """Slices and volumes, two folds each, trained by one call."""
    return train(
        recipe(volumes, tmp_path_factory.mktemp("whole"), "plan.configuration=[2d,3d_fullres]"), progress=False
    )


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory) -> StudyResult:
    """Two folds of 2D images that nobody disturbed."""
    return train(recipe(pictures, tmp_path_factory.mktemp("alone"), "train.epochs=4"), progress=False)


def tree(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def final(run: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(run, "last", training=True)
    return found.weights | found.tensors


def test_every_run_is_a_run_of_its_own_with_one_plan_a_configuration(whole):
    study = tree(whole.run / "study.json")
    assert [node["name"] for node in study["nodes"]] == list(whole.runs)
    assert list(whole.runs) == ["2d/fold_0", "2d/fold_1", "3d_fullres/fold_0", "3d_fullres/fold_1"]
    assert {node["state"] for node in study["nodes"]} == {"finished"}
    assert study["fingerprint"]["cases"] == len(tree(whole.run / "fingerprint.json")["cases"]) == 4
    for node in study["nodes"]:
        run = whole.run / node["folder"]
        plan = tree(run / "plan.json")
        assert plan == tree(whole.run / node["configuration"] / "fold_0" / "plan.json")
        assert len(plan["patch_size"]) == (2 if node["configuration"] == "2d" else 3)
        assert tree(run / "metrics.json")["dice"] == node["dice"] == whole.runs[node["name"]]
        own = load_checkpoint(run).recipe
        assert (own.plan.configuration, own.data.split.fold) == (node["configuration"], node["fold"])


def test_no_case_validates_twice_or_trains_where_it_validates(whole):
    for name in whole.configurations:
        splits = [tree(whole.run / name / f"fold_{fold}" / "split.json") for fold in range(2)]
        assert sorted(chain(*(split["val"] for split in splits))) == [f"case{n}" for n in range(4)]
        assert all(not set(split["train"]) & set(split["val"]) for split in splits)


def test_label_maps_of_the_validation_lie_on_the_grid_of_their_case(whole, volumes):
    for node in tree(whole.run / "study.json")["nodes"]:
        run = whole.run / node["folder"]
        maps = sorted((run / "validation").iterdir())
        assert [file.name.removesuffix(".nii.gz") for file in maps] == tree(run / "split.json")["val"]
        for file in maps:
            image, found = nib.load(volumes / "images" / file.name), nib.load(file)
            assert np.array_equal(image.affine, found.affine)
            assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1}


def test_all_folds_together_score_every_case_once(whole):
    for name, told in whole.configurations.items():
        pooled = read_evaluation(whole.run / name / "crossval")
        parts = [read_evaluation(whole.run / name / f"fold_{fold}") for fold in range(2)]
        assert pooled.rows == parts[0].rows | parts[1].rows
        assert told["dice"] == pytest.approx(np.mean([part.dice for part in parts]))  # folds of two cases each
        assert told["mean"] == pytest.approx(told["dice"])
        assert told["std"] == pytest.approx(np.std([part.dice for part in parts], ddof=1))
        assert told["folds"] == {str(fold): part.dice for fold, part in enumerate(parts)}


def test_the_report_of_a_study_is_one_page_that_leads_to_its_runs(whole):
    page = whole.report.read_text(encoding="utf-8")
    assert all(f'<a href="{name}/report.html">' in page for name in whole.runs)
    assert all(f'id="{key}"' in page for key in ("folds", "classes", "runs", "curves", "reasons", "recipe"))
    assert not re.search(r"<script|@import|(src|href)=\"http", page)
    assert json.loads(json.dumps(whole.to_json()))["best"] in whole.configurations
    assert "3d_fullres, all folds" in whole.summary()


def test_show_tells_where_each_run_stands(whole, capsys):
    assert main(["show", f"run={whole.run}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["state"]) for row in told["runs"]] == [(name, "finished") for name in whole.runs]
    assert told["recipe"]["plan"]["configuration"] == ["2d", "3d_fullres"]


def test_a_finished_study_is_not_trained_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.run.rglob("*.safetensors")}
    again = train(resume=whole.run, progress=False)
    assert {path: path.stat().st_mtime_ns for path in whole.run.rglob("*.safetensors")} == before
    assert (again.runs, again.configurations, again.failures) == (whole.runs, whole.configurations, {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["plan.configuration=3d_cascade_fullres", "data.split.kind=auto", "data.split.fold=0"], "kind=kfold, or give"),
        (["plan.configuration=[2d,3d_fullres]"], "3d_fullres: the images are 2D; use 2d"),
        (["name=../x"], "plain folder name"),
        (["data.split.folds=9"], "9 folds of 4 groups"),
    ],
)
def test_what_cannot_be_studied_is_refused_and_leaves_nothing(pictures, tmp_path, capsys, more, message):
    assert main(["train", *words(pictures, tmp_path / "runs", *more)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_one_configuration_of_one_fold_stays_a_run(pictures, tmp_path):
    more = ("plan.configuration=all", "data.split.fold=1", "train.epochs=1")
    result = train(recipe(pictures, tmp_path, *more), progress=False)
    assert isinstance(result, TrainResult)
    assert result.run == tmp_path / "study"
    assert not (result.run / "study.json").exists()
    assert not (result.run / "validation").exists()


def test_a_cascade_waits_for_every_fold_of_the_stage_before_it(volumes, tmp_path, capsys):
    folder = start_study(recipe(volumes, tmp_path, *CASCADE, "data.split.fold=0", "train.epochs=1"), {}).folder
    broken = folder.path / "3d_lowres" / "fold_0" / "plan.json"
    kept = broken.read_text()
    broken.write_text("{")
    assert main(["train", f"resume={folder.path}", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert list(told["runs"]) == ["3d_lowres/fold_0", "3d_lowres/fold_1", "3d_cascade_fullres/fold_0"]
    assert told["runs"]["3d_lowres/fold_1"] is not None  # a failed run does not take it along
    assert "a damaged run" in told["failures"]["3d_lowres/fold_0"]
    assert told["failures"]["3d_cascade_fullres/fold_0"] == "needs 3d_lowres/fold_0, which failed"
    assert "Not finished: 2 of 3 runs" in (folder.path / "report.html").read_text(encoding="utf-8")
    broken.write_text(kept)
    result = train(resume=folder.path, progress=False)
    assert result.failures == {}
    gathered = result.run / "3d_lowres" / "out_of_fold"
    for fold in range(2):
        for file in (result.run / "3d_lowres" / f"fold_{fold}" / "validation").iterdir():
            assert (gathered / file.name).read_bytes() == file.read_bytes()
    assert len(list(gathered.iterdir())) == 4
    last = load_checkpoint(result.run / "3d_cascade_fullres" / "fold_0")
    assert Path(last.recipe.data.previous) == gathered.resolve()
    assert last.plan.task.in_channels == 2


def test_killed_while_two_train_at_once_and_resumed_ends_the_same(pictures, alone, tmp_path):
    command = [sys.executable, "-m", "unetkit", "train", *words(pictures, tmp_path, "train.epochs=4")]
    process = subprocess.Popen([*command, "train.jobs=2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    study, until = tmp_path / "study", time.monotonic() + 240
    while not list(study.glob("2d/*/last.safetensors")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    log = {path: path.read_bytes() for path in study.glob("2d/*/log.jsonl")}
    time.sleep(1)
    assert {path: path.read_bytes() for path in study.glob("2d/*/log.jsonl")} == log  # no child outlives it
    # two at once again, of which one cannot
    plan = study / "2d" / "fold_1" / "plan.json"
    kept = plan.read_text()
    plan.write_text("{")
    halved = train(resume=study, changes={"train.jobs": 2}, progress=False)
    assert halved.runs == {"2d/fold_0": alone.runs["2d/fold_0"], "2d/fold_1": None}
    assert "a damaged run" in halved.failures["2d/fold_1"]
    assert "epoch 4/4" in (study / "2d" / "fold_0" / "output.txt").read_text()
    plan.write_text(kept)
    assert train(resume=study, progress=False).runs == alone.runs
    for name in alone.runs:
        expected, found = final(alone.run / name), final(study / name)
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_killed_before_all_was_written_it_is_decided_again(pictures, tmp_path):
    folder = start_study(recipe(pictures, tmp_path), {}).folder
    run = folder.path / "2d" / "fold_1"
    before = RunFolder(run).read()
    (folder.path / "study.json").write_text(json.dumps({"format": 1, "nodes": []}))
    for name in ("plan.json", "split.json", "recipe.yaml"):
        (run / name).unlink()
    assert reopen_study(folder.path, {}).folder.nodes == folder.nodes
    assert RunFolder(run).read() == before


def test_beside_resume_only_what_changes_no_result_may_be_given(alone, tmp_path):
    with pytest.raises(RecipeError, match=r"but for train\.device, train\.workers; drop train\.jobs=2"):
        train(resume=alone.run / "2d" / "fold_0", changes={"train.jobs": 2})
    with pytest.raises(RecipeError, match=r"drop train\.epochs=9"):
        train(resume=alone.run, changes={"train.epochs": 9})
    again = train(
        resume=alone.run / "2d" / "fold_0", changes={"train.device": "cpu", "train.workers": 0}, progress=False
    )
    assert again.dice == alone.runs["2d/fold_0"]


def test_a_study_that_is_damaged_says_so(tmp_path, alone):
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a damaged study .*; restore its study\.json"):
        read_study(tmp_path)


def test_ctrl_c_stops_all_and_says_how_to_go_on(pictures, tmp_path, capfd):
    study = start_study(recipe(pictures, tmp_path, "train.epochs=10000"), {}).folder.path

    def interrupt() -> None:
        until = time.monotonic() + 240
        while len(list(study.glob("2d/*/last.safetensors"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(resume=study, changes={"train.jobs": 2})
    assert f"go on with: unetkit train resume={study}" in capfd.readouterr().err
    for run in study.glob("2d/fold_*"):
        assert load_checkpoint(run, "last").state["progress"]["step"] > 0
        assert "stopped with Ctrl-C" in (run / "output.txt").read_text()
    assert {state.state for state in read_study(study).states.values()} == {"waiting"}
