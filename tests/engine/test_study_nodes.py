"""Which runs a recipe asks for, in which order, and what each goes by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unetkit.engine.study.folder import FAILED, State, StudyFolder, read_study
from unetkit.engine.study.nodes import Node, build_nodes, is_study, recipe_of
from unetkit.engine.study.schedule import Schedule
from unetkit.engine.study.slots import Slot, settle, slots
from unetkit.recipe import Recipe, resolve

CASCADE = "3d_cascade_fullres"


def asked(*words: str) -> Recipe:
    return resolve(["data.root=x", *words]).recipe


@pytest.mark.parametrize(
    ("words", "several"),
    [
        ([], False),
        (["data.split.kind=kfold", "data.split.fold=3"], False),
        (["data.split.kind=kfold", "data.split.fold=all"], True),
        (["plan.configuration=2d"], False),
        (["plan.configuration=[2d]"], False),
        (["plan.configuration=[2d,3d_fullres]"], True),
        (["plan.configuration=all"], True),
        ([f"plan.configuration={CASCADE}"], True),
        ([f"plan.configuration={CASCADE}", "data.previous=maps"], False),
    ],
)
def test_several_runs_are_a_study(words, several):
    assert is_study(asked(*words)) is several


def test_the_stage_before_a_cascade_comes_on_every_fold_and_first():
    recipe = asked(f"plan.configuration=[{CASCADE},2d]", "data.split.kind=kfold", "data.split.folds=3")
    nodes = build_nodes(recipe, [CASCADE, "2d"], [1], [0, 1, 2])
    stage = tuple(f"3d_lowres/fold_{fold}" for fold in range(3))
    assert [node.name for node in nodes] == ["2d/fold_1", *stage, f"{CASCADE}/fold_1"]
    assert [node.requires for node in nodes] == [(), (), (), (), stage]


def test_with_label_maps_of_ones_own_a_cascade_needs_no_other_run():
    recipe = asked("plan.configuration=all", "data.previous=maps")
    assert build_nodes(recipe, [CASCADE], [0, 1], [0, 1]) == (Node(CASCADE, 0), Node(CASCADE, 1))


def test_the_recipe_of_a_run_is_that_of_the_study_for_one_configuration_and_fold():
    recipe = asked("plan.configuration=all", "data.split.kind=kfold", "data.split.fold=all", "train.jobs=4", "name=s")
    own = recipe_of(recipe, Node(CASCADE, 6, ("3d_lowres/fold_0",)), 7, "maps")
    assert (own.plan.configuration, own.data.split.fold, own.data.split.folds) == (CASCADE, 6, 7)
    assert (own.data.previous, own.name, own.train.jobs) == ("maps", None, "auto")
    assert not is_study(own)
    assert Recipe.model_validate_json(own.model_dump_json()) == own
    assert recipe_of(recipe, Node("2d", 0), 7, "maps").data.previous is None


def schedule(tmp_path: Path) -> Schedule:
    nodes = (Node("3d_lowres", 0), Node("3d_lowres", 1))
    nodes = (*nodes, Node(CASCADE, 0, tuple(node.name for node in nodes)), Node("2d", 0))
    return Schedule(StudyFolder(tmp_path, nodes), nodes, shown=False)


def finish(of: Schedule, node: Node) -> None:
    of.folder.of(node).mkdir(parents=True)
    (of.folder.of(node) / "metrics.json").write_text('{"dice": 0.5}')
    (of.folder.of(node) / "report.html").write_text("")
    of.finish(node)


def test_what_waits_for_others_starts_when_they_are_finished(tmp_path):
    work = schedule(tmp_path)
    first, second, other = (work.next() for _ in range(3))
    assert [node.name for node in (first, second, other)] == ["3d_lowres/fold_0", "3d_lowres/fold_1", "2d/fold_0"]
    assert work.next() is None
    finish(work, first)
    assert work.next() is None
    finish(work, second)
    assert work.next().name == f"{CASCADE}/fold_0"


def test_what_waits_for_a_failed_run_fails_and_study_json_says_all_of_it(tmp_path):
    work = schedule(tmp_path)
    work.fail(work.next(), "no memory")
    second = work.next()
    work.start(second)
    told = {row["name"]: row["state"] for row in json.loads((tmp_path / "study.json").read_text())["nodes"]}
    assert told == {
        "3d_lowres/fold_0": "failed",
        "3d_lowres/fold_1": "running",
        f"{CASCADE}/fold_0": "waiting",
        "2d/fold_0": "waiting",
    }
    finish(work, second)
    assert work.next().name == "2d/fold_0"
    again = read_study(tmp_path)
    assert again.states[f"{CASCADE}/fold_0"] == State(FAILED, "needs 3d_lowres/fold_0, which failed")
    assert again.states["3d_lowres/fold_1"].dice == 0.5


def test_on_a_cpu_runs_train_in_turn_unless_several_at_once_are_asked_for():
    settings = asked("train.device=cpu").train
    assert [slot.device for slot in slots(settings, 5)] == ["cpu"]
    assert len(slots(settings.model_copy(update={"jobs": 3}), 5)) == 3
    assert len(slots(settings.model_copy(update={"jobs": 3}), 2)) == 2


def test_runs_at_once_share_the_threads_too(monkeypatch):
    settings = asked("train.device=cpu", "train.jobs=2").train
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [(slot.threads, slot.cores) for slot in slots(settings, 2)] == [(4, {0, 1, 2, 3}), (4, {4, 5, 6, 7})]
    assert [slot.threads for slot in slots(settings, 1)] == [0]
    # few cores each: not bound to them, but no more threads than that
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert [(slot.threads, slot.cores) for slot in slots(settings, 2)] == [(1, set())] * 2
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)  # as the user asked OpenMP for
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [slot.threads for slot in slots(settings, 2)] == [2, 2]


def test_a_run_has_the_threads_of_its_slot():
    words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    first = settle(Slot("cpu", threads=1))
    told = subprocess.run(words, preexec_fn=first, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1"
