"""What an engine cannot do is said in a line, and a job that is done alone keeps the rules of one in a queue."""

import json
import sys

import pytest

from unetkit.bench.claims import CLAIM, claim, held
from unetkit.bench.engines import Ended, Engine, open_engine
from unetkit.bench.folder import BROKEN, RUNNING, open_bench
from unetkit.bench.queue import run_bench
from unetkit.cli import main
from unetkit.errors import RecipeError
from unetkit.recipe.bench import checked_bench
from unetkit.recipe.cluster import EngineSection

TREE = {
    "models": [{"name": "unext_s", "label": "broken", "widths": [1, 2]}],
    "datasets": {"cells": {"data": {"dataset": "phantom2d", "cases": 4, "generator": {"size": [32, 32]}}}},
    "seeds": [0],
    "budget": {"steps": 4},
}
JOB = "cells/broken/seed_0"


def told(capsys, *words):
    code = main(["bench", *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home
    return open_bench(checked_bench({**TREE, "output": str(tmp_path)}), "mine")


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    settings = EngineSection(name=name, minutes=5 if name == "slurm" else None)
    with pytest.raises(RecipeError, match=rf"engine={name} needs the package '{package}'.*unetkit\[{name}\]"):
        open_engine(settings, tmp_path, "auto", 1)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_a_ray_cluster_that_is_not_there_is_told_at_once(address, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'unetkit[ray]'")
    with pytest.raises(RecipeError, match=f"engine.address={address}: no Ray cluster answers there"):
        open_engine(EngineSection(name="ray", address=address), tmp_path, "auto", 1)


@pytest.mark.parametrize(("device", "said"), [("cuda:1", "engine chooses the GPU"), ("cuda", "give engine.gpus=1")])
def test_a_cluster_gives_out_its_gpus_itself(device, said, tmp_path):
    with pytest.raises(RecipeError, match=said):
        open_engine(EngineSection(name="ray"), tmp_path, device, 1)


class Losing(Engine):
    """A cluster whose machines are lost at once, and which knows one that went before."""

    look_every = 0.01

    def __init__(self):
        self.tasks, self.begun = [], []

    def room(self):
        return 1

    def start(self, tasks):
        self.tasks += tasks
        self.begun += [task.ticket for task in tasks]

    def ended(self):
        over, self.tasks = self.tasks, []
        return [(task, Ended("its machine was lost", lost=True)) for task in over]

    def stop(self):
        pass

    def gone(self, maker):
        return maker.host == "lost_before"


@pytest.fixture
def losing(monkeypatch):
    engine = Losing()
    monkeypatch.setattr("unetkit.bench.queue.open_engine", lambda *_: engine)
    return engine


def test_a_job_is_begun_anew_with_another_ticket_as_often_as_allowed_then_it_is_a_row(folder, losing):
    assert run_bench(folder, engine=EngineSection(name="ray", retries=2), shown=False) == {BROKEN: 1}
    assert len(set(losing.begun)) == 3
    assert folder.reason(folder.jobs[0]) == "its machine was lost (3 times)"
    assert not list(folder.path.rglob(CLAIM))


@pytest.mark.parametrize(("host", "state"), [("lost_before", BROKEN), ("elsewhere", RUNNING)])
def test_the_claim_of_a_machine_that_the_engine_knows_to_be_gone_holds_no_longer(host, state, folder, losing):
    place = folder.of(folder.jobs[0])
    place.mkdir(parents=True)
    (place / CLAIM).write_text(json.dumps({"host": host, "pid": 1, "ticket": "old"}))
    assert run_bench(folder, engine=EngineSection(name="ray", retries=0), shown=False) == {state: 1}


def test_a_job_alone_says_why_it_failed_and_leaves_its_claim(folder, capsys):
    code, document = told(capsys, f"run={folder.path}", f"job={JOB}")
    assert (code, folder.state(folder.jobs[0])) == (2, BROKEN)
    assert folder.reason(folder.jobs[0]) == document["error"]
    assert "widths" in document["error"]
    assert not list(folder.path.rglob(CLAIM))


def test_a_job_in_other_hands_is_refused_and_not_called_failed(folder, capsys):
    own = claim(folder.of(folder.jobs[0]))
    for ticket in ([], ["ticket=old"]):
        code, document = told(capsys, f"run={folder.path}", f"job={JOB}", *ticket)
        assert code == 2
        assert "works on it" in document["error"]
    assert folder.reason(folder.jobs[0]) == ""
    assert held(folder.of(folder.jobs[0]))
    own.release()


def test_words_that_would_change_nothing_are_refused(folder, capsys):
    assert "drop" in told(capsys, f"run={folder.path}", f"job={JOB}", "engine=ray")[1]["error"]
    assert "drop" in told(capsys, f"run={folder.path}", "ticket=x")[1]["error"]
    assert "did you mean 'slurm'" in told(capsys, f"run={folder.path}", "engine=slum")[1]["error"]
    assert "engine.gpu" in told(capsys, f"run={folder.path}", "engine=ray", "engine.gpu=1")[1]["error"]
