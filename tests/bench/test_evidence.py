"""What a benchmark hands on: means of runs, and how they would vary with other cases."""

import json

import numpy as np
import pytest

from unetkit.bench.evidence import Evidence, Standing, gather, read_evidence, shipped_evidence, write_evidence
from unetkit.bench.folder import open_bench
from unetkit.bench.resampling import resample
from unetkit.cli import main
from unetkit.errors import DataError
from unetkit.recipe.bench import checked_bench


def benched(tmp_path, scores, datasets=("cells",)):
    """A benchmark of {model: [IoU of each case] for each seed}; the first two cases are of one patient."""
    data = {"dataset": "phantom2d", "cases": 4, "generator": {"size": [32, 32]}, "patch_size": [32, 32]}
    tree = {
        "models": [{"name": "unet", "widths": [4, 8], "label": label} for label in scores],
        "datasets": {name: {"data": data} for name in datasets},
        "seeds": [0, 1],
        "budget": {"steps": 10},
        "output": str(tmp_path),
    }
    folder = open_bench(checked_bench(tree), "b")
    for job in folder.jobs:
        if job.seed < len(scores[job.model]):
            values = scores[job.model][job.seed]
            cases = {f"c{n}": {"cell": {"iou": value, "dice": value}} for n, value in enumerate(values)}
            result = {
                "scores": {"cases": cases, "failures": {}},
                "zero_shot": {},
                "groups": {"c0": "p", "c1": "p"},
                "pretrained": False,
                "patch_size": [32, 32],
                "params_m": 0.0125,
                **dict.fromkeys(("steps", "train_seconds", "split"), 1),
                "machine": {"device": "cpu"},
                "versions": {"torch": "2"},
            }
            folder.write_result(job, result)
    return folder


SCORES = {"a": [[0.5, 0.6, 0.7, 0.9], [0.7, 0.6, 0.5, 0.9]], "b": [[0.9, 0.8, 0.8, 0.7]]}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home
    return tmp_path


def test_evidence_is_means_of_runs_and_their_covariance_over_patients(home):
    folder = benched(home, SCORES)
    found = gather(folder)
    (cells,) = found.datasets
    tested = cells.scores["random", "iou"]
    assert (tested.models, tested.cases, cells.size) == (("a", "b"), 4, (32, 32))
    np.testing.assert_allclose(tested.runs, [[0.675, 0.675], [0.8, np.nan]])
    # means of a: 0.6 0.6 0.6 0.9 about 0.675, of b about 0.8; the first two cases are drawn as one
    apart = np.array([[-0.15, -0.075, 0.225], [0.1, 0.0, -0.1]])
    np.testing.assert_allclose(tested.covariance, apart @ apart.T / 16 * 3 / 2)
    assert cells.costs["a"] == {"params_m": 0.0125}
    assert found.models["a"] == {"name": "unet", "widths": [4, 8]}
    assert cells.traits.cases == 4
    assert found.about["seeds"] == [0, 1]
    assert found.about["budget"] == {"steps": 10, "validations": 5}
    # what a report has measured comes along
    rows = [{"model": "a", "dataset": "cells", "cost": {"params_m": 0.0125, "gflops": 0.5, "ms": 2.0, "note": ""}}]
    (folder.path / "costs.json").write_text(json.dumps({"machine": {}, "rows": rows}))
    assert gather(folder).datasets[0].costs["a"] == {"params_m": 0.0125, "gflops": 0.5, "ms": 2.0}


def test_a_data_set_without_a_case_in_common_costs_no_other_its_scores(home):
    folder = benched(home, SCORES, datasets=("cells", "torn"))
    torn = next(job for job in folder.jobs if (job.dataset, job.model) == ("torn", "b"))
    result = folder.result(torn)
    result["scores"]["cases"] = {"c9": {"cell": {"iou": 0.5, "dice": 0.5}}}
    result["zero_shot"] = {"elsewhere": {"cases": {}, "failures": {}}}
    folder.write_result(torn, {key: value for key, value in result.items() if key != "format"})
    found = gather(folder)
    assert ([known.name for known in found.datasets], found.about["left_out"]) == (["cells"], ["torn"])


def test_the_covariance_is_what_drawing_cases_anew_gives():
    rng = np.random.default_rng(0)
    cases = 0.7 + 0.1 * rng.normal(size=(3, 1, 60)) + 0.1 * rng.normal(size=(1, 1, 60))
    draws = resample(cases, draws=4000)
    apart = cases[:, 0] - cases[:, 0].mean(axis=1, keepdims=True)
    tested = Standing(("a", "b", "c"), cases.mean(axis=2), apart @ apart.T / 60**2, 60)
    gains = draws.drawn - draws.drawn.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(tested.noise(), gains.var(axis=0), rtol=0.1)
    # and runs add their own
    runs = np.array([[0.6, 0.8], [0.7, 0.7], [0.7, np.nan]])
    more = Standing(tested.models, runs, np.zeros((3, 3)), 60).noise()
    np.testing.assert_allclose(more, 0.01 * np.array([4, 1, 1]) / 9)
    chosen = tested.of(["c", "a"])
    assert chosen.covariance[0, 1] == tested.covariance[2, 0]


def test_evidence_goes_through_a_file(home, capsys):
    folder = benched(home, SCORES)
    assert main(["bench", "table", f"run={folder.path}", f"evidence={home / 'e.json'}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert str(home / "e.json") in document["written"]
    text = (home / "e.json").read_text()
    assert str(home) not in text
    there, here = read_evidence(home / "e.json"), read_evidence(folder.path)
    assert (there.models, there.about, there.datasets[0].traits.sides) == (here.models, here.about, (32, 32))
    assert Evidence.from_json(there.to_json()).to_json() == there.to_json()
    tested = there.datasets[0].scores["random", "iou"]
    assert np.isnan(tested.runs[1, 1])
    np.testing.assert_allclose(tested.covariance, here.datasets[0].scores["random", "iou"].covariance, rtol=1e-3)


def test_files_that_are_no_evidence_are_named(home):
    with pytest.raises(DataError, match="neither a benchmark's folder nor a file"):
        read_evidence(home / "nothing.json")
    path = write_evidence(home / "e.json", gather(benched(home, SCORES)))
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(DataError, match=r"e.json: evidence of format 99, not 1"):
        read_evidence(path)
    tree["datasets"]["cells"]["scores"][0]["covariance"] = [[1.0]]
    with pytest.raises(DataError, match="no evidence of a benchmark"):
        Evidence.from_json(tree)
    with pytest.raises(DataError, match="no job is done yet"):
        gather(open_bench(checked_bench({**json.loads((home / "b/bench.json").read_text())["bench"]}), "new"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.update(about={}),
        lambda tree: tree.update(models={}),
        lambda tree: tree["datasets"]["cells"].update(costs={"a": {}}),
        lambda tree: tree["datasets"]["cells"].update(costs=5),
        lambda tree: tree["datasets"]["cells"]["scores"][0]["models"].reverse() or tree["models"].pop("b"),
        lambda tree: tree["datasets"]["cells"]["traits"].update(winding=0),
        lambda tree: tree["datasets"]["cells"]["traits"].update(foreground="much"),
    ],
)
def test_damaged_evidence_is_refused_as_it_is_read(home, damage):
    tree = gather(benched(home, SCORES)).to_json()
    assert Evidence.from_json(json.loads(json.dumps(tree))).models == tree["models"]
    damage(tree)
    with pytest.raises(DataError, match=r"no evidence of a benchmark|no traits of a data set"):
        Evidence.from_json(tree)


def test_shipped_evidence_can_be_read():
    for path in shipped_evidence():
        assert read_evidence(path).datasets
