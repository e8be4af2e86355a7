"""A benchmark is run, killed, gone on with and put into tables, through the command line."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from unetkit import create_model
from unetkit.bench.folder import DONE, WAITING, open_bench, read_bench_folder
from unetkit.bench.job import run_job
from unetkit.bench.operations import trainable
from unetkit.cli import main
from unetkit.errors import CheckpointError, DataError, RecipeError
from unetkit.recipe.bench import checked_bench, read_bench

CELLS = {"data": {"dataset": "phantom2d", "cases": 4, "generator": {"size": [32, 32]}, "patch_size": [32, 32]}}


def tree(tmp_path, **changed):
    return {
        "models": [{"name": "unet", "widths": [4, 8], "label": "tiny"}, {"name": "unext_s", "label": "other"}],
        "datasets": {"cells": CELLS},
        "seeds": [0],
        "budget": {"steps": 4, "validations": 1},
        "recipe": {"train": {"workers": 0, "batch_size": 2, "augment": {"preset": "none"}}},
        "output": str(tmp_path),
        **changed,
    }


def recipe_file(tmp_path, **changed):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(tree(tmp_path, **changed)))
    return path


def told(capsys, *words):
    code = main(["bench", *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_a_killed_benchmark_goes_on_and_no_job_is_lost_or_done_twice(home, capsys):
    path = recipe_file(home, models=[*tree(home)["models"], {"name": "unext_s", "label": "broken", "widths": [1, 2]}])
    child = subprocess.Popen([sys.executable, "-m", "unetkit", "bench", f"recipe={path}"], stderr=subprocess.DEVNULL)
    folder, waited = None, time.monotonic() + 600
    while time.monotonic() < waited:
        if (home / "small" / "bench.json").exists():
            folder = folder or read_bench_folder(home / "small")
            if folder.state(folder.jobs[0]) == DONE and folder.jobs[1:]:
                break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert folder is not None
    first = folder.of(folder.jobs[0]) / "result.json"
    written = first.stat().st_mtime_ns

    code, document = told(capsys, f"run={home / 'small'}")
    assert first.stat().st_mtime_ns == written
    assert (code, document["jobs"]) == (2, {"done": 2, "failed": 1})
    rows = rows_of(home / "small" / "results.csv")
    assert [(row["model"], row["state"]) for row in rows] == [
        ("tiny", "done"),
        ("other", "done"),
        ("broken", "failed"),
    ]
    assert "widths" in rows[2]["reason"]
    result = json.loads(first.read_text())
    network = create_model("unet", **{k: result[k] for k in ("in_channels", "num_classes")}, widths=[4, 8])
    assert float(rows[0]["params_m"]) * 1e6 == pytest.approx(trainable(network), abs=0.1)
    # every metric of every class of each test case
    cases = rows_of(home / "small" / "cases.csv")
    tested = result["scores"]["cases"]
    assert {row["case"] for row in cases if row["model"] == "tiny"} == set(tested)
    split = json.loads((first.parent / "run" / "split.json").read_text())
    assert set(tested) == set(split["test"])

    # what only further training would need is not kept, and is not silently trained anew
    run = first.parent / "run"
    assert [file.name for file in run.glob("*.safetensors")] == ["best.safetensors"]
    assert main(["train", f"resume={run}"]) == 2
    assert "a finished run without its last.safetensors" in capsys.readouterr().err

    code, document = told(capsys, "report", f"run={home / 'small'}", "seconds=0.3", "device=cpu")
    assert (code, list(document["reports"])) == (0, ["random"])
    page = (home / "small" / "report_random.html").read_text()
    # every case that is shown, as both networks see it
    assert page.count("<figure>") == 2 * min(2, len(tested))
    assert "false negative" in page  # what the colours of the pictures mean
    assert "cells/broken/seed_0" in page
    assert "U-Score with anchors <b>cohort</b>" in page
    # weights that were taken elsewhere cost the page its pictures alone
    (first.parent / "run").rename(home / "elsewhere")
    assert told(capsys, "report", f"run={home / 'small'}", "seconds=0.3", "device=cpu")[0] == 0
    page = (home / "small" / "report_random.html").read_text()
    assert "<figure>" not in page
    assert "cells: no pictures, " in page


def test_more_jobs_may_join_a_benchmark_and_done_ones_must_mean_the_same(home):
    folder = open_bench(checked_bench(tree(home)), "mine")
    folder.write_result(folder.jobs[0], {"model": "tiny"})
    more = open_bench(checked_bench(tree(home, seeds=[0, 1])), "mine")
    assert [more.state(job) for job in more.jobs] == [DONE, WAITING, WAITING, WAITING]
    with pytest.raises(RecipeError, match="holds a result of cells/tiny/seed_0, which would now be trained by other"):
        open_bench(checked_bench(tree(home, budget={"steps": 8})), "mine")
    with pytest.raises(RecipeError, match="which is not asked for now"):
        open_bench(checked_bench(tree(home, seeds=[1])), "mine")
    with pytest.raises(RecipeError, match="begun with protocol=held_out"):
        open_bench(checked_bench(tree(home, protocol="ubench")), "mine")


RESULT = {"scores": {"cases": {}}, "groups": {}, "pretrained": False}


def far(**places):
    """Other data that the networks of `cells` are tested on, at these places."""
    return {name: {"source": "cells", "data": {"root": place}} for name, place in places.items()}


def test_other_data_may_join_and_those_that_were_tested_must_stay(home):
    folder = open_bench(checked_bench(tree(home, zero_shot=far(near="a"))), "mine")
    folder.write_result(folder.jobs[0], {**RESULT, "zero_shot": {"near": {"cases": {}}}})
    more = open_bench(checked_bench(tree(home, zero_shot=far(near="a", far="b"))), "mine")
    assert ([more.state(job) for job in more.jobs], more.untested(more.jobs[0])) == ([WAITING, WAITING], ["far"])
    # not tested on it yet: it may lie elsewhere, or be given up
    open_bench(checked_bench(tree(home, zero_shot=far(near="a", far="c"))), "mine")
    assert open_bench(checked_bench(tree(home, zero_shot=far(near="a"))), "mine").state(folder.jobs[0]) == DONE
    # its scores would stay those of the data before, or be missing
    for other in (far(near="c"), far(far="b")):
        with pytest.raises(RecipeError, match="tiny/seed_0, which would now be tested on other data"):
            open_bench(checked_bench(tree(home, zero_shot=other)), "mine")
    # nor may its training change while it waits for a test
    open_bench(checked_bench(tree(home, zero_shot=far(near="a", far="b"))), "mine")
    with pytest.raises(RecipeError, match="would now be trained by other settings"):
        open_bench(checked_bench(tree(home, zero_shot=far(near="a", far="b"), budget={"steps": 8})), "mine")


def test_a_job_killed_between_two_tests_that_joined_goes_on_with_the_second(home, monkeypatch):
    folder = open_bench(checked_bench(tree(home, zero_shot=far(one="a", two="b"))), "mine")
    job, tested, killed = folder.jobs[0], [], ["b"]
    folder.write_result(job, {**RESULT, "zero_shot": {}, "steps": 4})

    def moved(job, run, data, device):
        tested.append(data["root"])
        if data["root"] in killed:
            raise KeyboardInterrupt
        return {"cases": {"at": data["root"]}}

    monkeypatch.setattr("unetkit.bench.job._moved", moved)
    with pytest.raises(KeyboardInterrupt):
        run_job(folder, job)
    assert (folder.untested(job), folder.state(job)) == (["two"], WAITING)
    killed.clear()
    result = run_job(folder, job)
    assert tested == ["a", "b", "b"]
    assert {name: of["cases"]["at"] for name, of in result["zero_shot"].items()} == {"one": "a", "two": "b"}
    assert (folder.state(job), folder.result(job), result["steps"]) == (DONE, result, 4)


def test_networks_of_a_finished_benchmark_are_tested_on_data_that_join_without_training(home, capsys):
    other = {**CELLS["data"], "generator": {"size": [32, 32], "contrast": "random", "seed": 7}}
    transfer = {"joined": {"source": "cells", "data": {k: v for k, v in other.items() if k != "patch_size"}}}
    models = tree(home)["models"][:1]
    assert told(capsys, f"recipe={recipe_file(home, models=models)}")[1]["jobs"] == {"done": 1}
    place = home / "small" / "jobs" / "cells" / "tiny" / "seed_0"
    before = json.loads((place / "result.json").read_text())
    trained = {file: file.stat().st_mtime_ns for file in (place / "run").iterdir() if file.is_file()}

    folder = open_bench(read_bench([f"recipe={recipe_file(home, models=models, zero_shot=transfer)}"])[0], "small")
    folder.write_failure(folder.jobs[0], "no room")
    # what was found before stays, and the test that failed is a row
    _, document = told(capsys, "table", f"run={folder.path}")
    assert [(row["target"], row["state"]) for row in document["rows"]] == [("cells", "done"), ("joined", "failed")]
    code, document = told(capsys, f"run={folder.path}", "retry=true")
    assert (code, document["jobs"]) == (0, {"done": 1})
    after = json.loads((place / "result.json").read_text())
    assert set(after["zero_shot"]) == {"joined"}
    assert after["zero_shot"]["joined"]["cases"]
    assert {**after, "zero_shot": {}} == before
    assert {file: file.stat().st_mtime_ns for file in (place / "run").iterdir() if file.is_file()} == trained
    rows = rows_of(home / "small" / "results.csv")
    assert [(row["target"], row["state"]) for row in rows] == [("cells", "done"), ("joined", "done")]


def test_anchors_that_do_not_exist_are_refused_before_the_first_job(home):
    for anchors in ("ubench:kvasr", "mine"):
        with pytest.raises(DataError, match=f"anchors '{anchors}'"):
            open_bench(checked_bench(tree(home, anchors=anchors)), "mine")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bench.json", "{", r"cannot be read \(.*\); restore it"),
        ("bench.json", '{"format": "x"}', "of format x, not 1"),
        ("bench.json", "[]", "damaged; restore it"),
        ("result.json", "{}", "of format None, not 1"),
        ("result.json", '{"format": 1}', r"damaged \(no scores\); delete it to do the job again"),
        ("result.json", "[]", "damaged; delete it to do the job again"),
    ],
)
def test_damaged_files_are_named_with_what_to_do(home, capsys, name, text, said):
    folder = open_bench(checked_bench(tree(home)), "mine")
    place = folder.path if name == "bench.json" else folder.of(folder.jobs[0])
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    for form in ("table", "report"):
        code, document = told(capsys, form, f"run={folder.path}")
        assert code == 2
        assert re.search(said, document["error"])
        assert str(place) in document["error"]


def test_a_folder_that_is_no_benchmark_and_a_job_that_is_none_are_named(home, capsys):
    with pytest.raises(CheckpointError, match="this is no benchmark"):
        read_bench_folder(home)
    folder = open_bench(checked_bench(tree(home)), "mine")
    code, document = told(capsys, f"run={folder.path}", "job=cells/tiny/seed_9")
    assert code == 2
    assert "no such job" in document["error"]
    assert told(capsys, "costs")[1]["error"].endswith("(did you mean 'cost'?)")


def test_costs_are_told_as_a_table_and_written(home, capsys):
    output = home / "cost.csv"
    code, document = told(capsys, "cost", "size=[64,64]", "models=[unext_s, ritnet]", f"output={output}")
    assert code == 0
    assert [row["name"] for row in document["rows"]] == ["unext_s", "ritnet"]
    assert float(rows_of(output)[0]["gflops"]) == pytest.approx(document["rows"][0]["gflops"])
    assert document["setting"] == "64 x 64, 3 channels, 2 outputs; gmacs are half of torch's operations"
    assert "gmacs as the package thop counts them" in told(capsys, "cost", "models=[ritnet]", "thop=true")[1]["setting"]
    assert told(capsys, "cost", "models=[nounet]")[0] == 2
    assert "add seconds=5" in told(capsys, "cost", "throughput=true")[1]["error"]
    assert "unknown key 'retry'" in told(capsys, "table", f"run={home}", "retry=true")[1]["error"]
