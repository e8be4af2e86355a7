"""What a benchmark's recipe says of each job, and what it refuses."""

import json

import pytest

from unetkit.errors import RecipeError
from unetkit.recipe.bench import checked_bench, jobs_of, labelled, other_engine, read_bench
from unetkit.recipe.cluster import EngineSection

CELLS = {"data": {"dataset": "phantom2d"}}
TREE = {
    "models": ["unet", {"name": "unet", "widths": [4, 8]}, {"name": "unetpp", "label": "nested"}],
    "datasets": {"cells": CELLS, "own": {"data": {"root": "kvasir"}}},
    "seeds": [3, 5],
    "budget": {"steps": 100},
}


def bench(**changed):
    return checked_bench({**TREE, **changed})


@pytest.mark.parametrize("steps", [1, 3, 7 * 43, 120, 1000, 20_000])
@pytest.mark.parametrize("validations", [1, 2, 3])
def test_a_budget_is_spent_to_the_last_step(steps, validations):
    wanted = {"steps": steps * validations, "validations": validations}
    train = next(iter(jobs_of(bench(budget=wanted)))).recipe.train
    assert train.epochs * train.steps_per_epoch == steps * validations
    assert validations <= train.epochs <= 50
    assert train.epochs // train.validate_every >= validations


def test_every_model_meets_every_data_set_and_seed():
    jobs = list(jobs_of(bench()))
    assert len({job.name for job in jobs}) == len(jobs) == 3 * 2 * 2
    # a seed is complete before the next begins
    assert [job.seed for job in jobs] == [3] * 6 + [5] * 6
    assert {job.recipe.seed for job in jobs if job.seed == 5} == {5}
    assert list(labelled(bench())) == ["unet", "unet+widths-4-8", "nested"]


def test_the_budget_is_the_same_for_all_and_validates_as_often_as_asked():
    for job in jobs_of(bench(budget={"steps": 100, "validations": 4, "minutes": 2})):
        train = job.recipe.train
        assert train.epochs * train.steps_per_epoch == 100
        assert train.epochs // train.validate_every == 4
        assert train.max_minutes == 2


def test_minutes_alone_last_as_long_for_all_whatever_the_recipe_trains_for():
    for job in jobs_of(bench(budget={"minutes": 30, "validations": 7})):
        train = job.recipe.train
        assert (train.epochs, train.max_minutes, train.validations) == (None, 30, 7)
        # short epochs, at whose ends validations are
        assert train.steps_per_epoch <= 20


def test_epochs_are_passes_over_the_cases_of_each_data_set():
    for job in jobs_of(bench(budget={"epochs": 30, "validations": 7})):
        train = job.recipe.train
        assert (train.epochs, train.steps_per_epoch, train.validations, train.max_minutes) == (30, None, 7, None)


def test_keys_of_one_model_go_before_those_of_all_and_relative_roots_lie_below_data_root():
    told = bench(
        recipe={"train": {"optimizer": {"lr": 0.1}}},
        per_model={"nested": {"train": {"optimizer": {"lr": 0.2}}}},
        data_root="somewhere",
    )
    rates = {job.model: job.recipe.train.optimizer.lr for job in jobs_of(told)}
    assert rates == {"unet": 0.1, "unet+widths-4-8": 0.1, "nested": 0.2}
    assert {job.recipe.data.root for job in jobs_of(told)} == {None, "somewhere/kvasir"}


def test_a_data_set_may_be_for_some_models_alone():
    told = bench(datasets={**TREE["datasets"], "own": {"data": {"root": "x"}, "models": ["nested"]}})
    assert [job.model for job in jobs_of(told) if job.dataset == "own"] == ["nested", "nested"]
    for wrong, said in (([], "give a list of labels"), (["nestd"], "did you mean 'nested'")):
        with pytest.raises(RecipeError, match=said):
            list(jobs_of(bench(datasets={"own": {"data": {"root": "x"}, "models": wrong}})))


def test_other_data_are_tested_by_the_networks_of_their_source():
    told = bench(zero_shot={"far": {"source": "cells", "data": {"root": "far"}}}, data_root="in")
    assert {job.dataset for job in jobs_of(told) if job.transfers} == {"cells"}
    assert next(job.transfers for job in jobs_of(told) if job.transfers) == {"far": {"root": "in/far"}}


def test_data_that_networks_were_trained_on_are_no_other_data(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in" / "a")
    file = tmp_path / "mine.yaml"

    def read(own, other):
        tree = {**TREE, "data_root": str(tmp_path / "in"), "datasets": {"own": {"data": own}}}
        file.write_text(json.dumps({**tree, "zero_shot": {"far": {"source": "own", "data": other}}}))
        return read_bench([f"recipe={file}"])

    generated = {"dataset": "phantom2d", "cases": 9, "generator": {"seed": 1}}
    for own, other in (
        ({"root": "a"}, {"root": "a"}),
        ({"root": "a"}, {"root": "../in/a", "resize": [32, 32]}),
        ({"root": "a", "dataset": "kvasir_seg"}, {"root": str(tmp_path / "link")}),
        (generated, {**generated, "cases": 5}),
    ):
        with pytest.raises(
            RecipeError, match=r"zero_shot.far.data.*whose networks would be tested.*drop zero_shot.far$"
        ):
            read(own, other)
    for own, other in (
        ({"root": "a"}, {"root": "b"}),
        ({"root": "a"}, {"dataset": "phantom2d"}),
        ({"root": "a", "layout": "decathlon"}, {"root": "a", "layout": "paired"}),
        (generated, {**generated, "generator": {"seed": 2}}),
    ):
        assert read(own, other)[0].zero_shot["far"].data == other


def test_an_engine_is_a_word_or_a_section_and_another_one_leaves_its_keys_behind(tmp_path):
    text = "models: [unet]\ndatasets: {a: {data: {root: x}}}\nbudget: {steps: 10}\n"
    (tmp_path / "mine.yaml").write_text(text + "engine: {name: slurm, minutes: 60, cpus: 4, partition: gpu}\n")

    def engine(*words):
        return read_bench([f"recipe={tmp_path / 'mine.yaml'}", *words])[0].engine

    assert (engine().name, engine().cpus, engine("engine.minutes=90").minutes) == ("slurm", 4, 90)
    assert engine("engine=slurm", "engine.gpus=1").partition == "gpu"
    assert engine("engine=ray", "engine.gpus=0.5") == EngineSection(name="ray", gpus=0.5)
    assert engine("bench.engine=ray") == engine("engine={name: ray}") == EngineSection(name="ray")
    assert engine("engine=local") == bench(engine="local").engine == EngineSection()
    # as it stands in a benchmark's folder, where all keys are written
    stored = checked_bench(read_bench([f"recipe={tmp_path / 'mine.yaml'}"])[0].model_dump(mode="json"))
    assert other_engine(stored, None).partition == "gpu"
    assert other_engine(stored, {"at_once": 2}).at_once == 2
    assert other_engine(stored, {"name": "local"}) == EngineSection()


def test_what_starts_the_jobs_changes_none_of_them():
    jobs = list(jobs_of(bench()))
    assert list(jobs_of(bench(engine={"name": "slurm", "minutes": 5}, jobs=3))) == jobs


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"models": ["unet", "unet"]}, "'unet' stands twice"),
        ({"models": ["unett"]}, "did you mean 'unet'"),
        ({"models": [{"name": "unet", "label": "a/b"}]}, "name of a folder"),
        ({"seeds": [1, 1]}, "hold one twice"),
        ({"budget": {}}, "give steps=NUMBER, epochs=NUMBER or minutes=NUMBER"),
        ({"budget": {"steps": 9, "epochs": 3}}, "steps=9 and epochs=3 are two lengths"),
        ({"budget": {"epochs": 3}}, "validations=5 in 3 epochs: one an epoch at most"),
        ({"budget": {"steps": 101}}, "cannot be divided into 5 or more epochs of equal length; give 100 or 105"),
        ({"recipe": {"train": {"epochs": 5}}}, "train.epochs is decided by budget"),
        ({"recipe": {"seed": 5}}, "seed is decided by the benchmark"),
        ({"per_model": {"unat": {}}}, "did you mean 'unet'"),
        ({"zero_shot": {"x": {"source": "cell", "data": {}}}}, "did you mean 'cells'"),
        ({"recipe": {"trian": {}}}, "unet on cells: unknown key 'trian'"),
        ({"datsets": {}}, "datsets"),
        ({"engine": "rai"}, "engine.name=rai: expected one of local, ray, slurm"),
        ({"engine": "slurm"}, "slurm needs minutes=NUMBER"),
        ({"engine": {"name": "ray", "partition": "gpu"}}, "partition is not used with ray, which takes at_once"),
        ({"engine": {"cpus": 4}}, "cpus is not used with local"),
        ({"engine": {"name": "slurm", "minutes": 5, "gpus": 0.5}}, "whole GPUs"),
        ({"models": [{"name": "unet", "label": ".."}]}, r"label '\.\.' is the name of a folder"),
        ({"models": [{"widths": [4, 8]}]}, "has no name"),
        ({"datasets": {"../x": CELLS}}, r"data set '\.\./x' is the name of a folder"),
        ({"datasets": {"cells": {"data": None}}}, "data=None: expected a section of keys"),
        ({"datasets": {"cells": {**CELLS, "train": 5}}}, "train=5: expected a section of keys"),
        ({"recipe": {"train": None}}, "train=None: expected a section of keys"),
        ({"recipe": {"train": {"validate_every": 2}}}, "train.validate_every is decided by budget"),
        ({"per_model": {"nested": {"model": {"deep_supervision": True}}}}, "model is decided by `models`"),
        ({"data_root": "in", "datasets": {"cells": {"data": {"root": 5}}}}, "data.root=5: expected a text"),
        ({"datasets": {"cells": {**CELLS, "models": ["nested", "nested"]}}}, "one stands twice"),
        ({"datasets": {"cells": {**CELLS, "models": [{"name": "unet"}]}}}, "is no model of this benchmark"),
        ({"anchors": "ubench:dsb"}, "are of one data set.*give anchors={cells: ubench:dsb}"),
        ({"anchors": {"cell": "ubench:dsb"}}, "anchors.cell is no data set .*did you mean 'cells'"),
        # its scores would stand among those of networks that were trained on it
        ({"zero_shot": {"own": {"source": "cells", "data": {"root": "x"}}}}, "call it cells_to_own"),
        ({"zero_shot": {"x": {"source": "cells", "data": {}}}}, "give root=FOLDER or dataset=NAME"),
        ({"zero_shot": {"x": {"source": "cells", "data": {"rot": "x", "root": "y"}}}}, "zero_shot.x.data.*'rot'"),
        ({"zero_shot": {"x": {"source": "cells", "data": {"root": "y", "split": {}}}}}, "tested as a whole"),
    ],
)
def test_what_cannot_be_is_refused_at_once(changed, said):
    with pytest.raises(RecipeError, match=said):
        list(jobs_of(bench(**changed)))


def test_anchors_are_of_a_data_set():
    far = {"far": {"source": "cells", "data": {"root": "far"}}}
    one = bench(anchors="ubench:dsb", datasets={"cells": CELLS}, zero_shot=far)
    assert [one.anchors_of(name) for name in ("cells", "far")] == ["ubench:dsb", "cohort"]
    several = bench(anchors={"own": "ubench:kvasir"}, zero_shot=far)
    assert [several.anchors_of(name) for name in ("cells", "own", "far")] == ["cohort", "ubench:kvasir", "cohort"]
    assert bench().anchors_of("own") == "cohort"


def test_a_file_is_read_with_words_over_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("models: [unet]\ndatasets: {a: {data: {root: x}}}\nbudget: {steps: 10}\n")
    found, name = read_bench([f"recipe={tmp_path / 'mine.yaml'}", "seeds=[7]", "budget.steps=20"])
    assert (name, found.seeds, found.budget.steps) == ("mine", [7], 20)
    with pytest.raises(RecipeError, match="give recipe=NAME of a benchmark"):
        read_bench([])
    with pytest.raises(RecipeError, match="no such file"):
        read_bench(["recipe=none.yaml"])
