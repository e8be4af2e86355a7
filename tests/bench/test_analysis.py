"""From the results of jobs to what may be said of models."""

from dataclasses import replace

import numpy as np
import pytest

from unetkit.bench.analysis import Scores, collect, judge, overall, pareto
from unetkit.bench.anchors import UBENCH_UNET_FPS
from unetkit.bench.folder import open_bench
from unetkit.bench.report import bench_data, method
from unetkit.bench.table import case_rows
from unetkit.bench.uscore import u_score
from unetkit.errors import DataError
from unetkit.recipe.bench import checked_bench


def scored(values):
    return {"cases": {case: {"cell": {"iou": v, "dice": v}} for case, v in values.items()}, "failures": {}}


def folder(tmp_path, results, models=("unet", "unetpp"), seeds=(0, 1), **changed):
    """A benchmark whose jobs came to {model: {seed: {case: IoU}}}."""
    tree = {
        "models": list(models),
        "datasets": {"cells": {"data": {"dataset": "phantom2d"}}},
        "seeds": list(seeds),
        "budget": {"steps": 10},
        "output": str(tmp_path),
    }
    found = open_bench(checked_bench({**tree, **changed}), "b")
    for job in found.jobs:
        if (values := results.get(job.model, {}).get(job.seed)) is not None:
            trained = job.model == "unetpp" and "pretrained" in results
            tree = {"scores": scored(values), "zero_shot": {}, "groups": {"a": "p1", "b": "p1"}, "pretrained": trained}
            found.write_result(job, tree)
    return found


def test_scores_are_models_by_runs_by_the_cases_that_all_have(tmp_path):
    results = {
        "unet": {0: {"a": 0.5, "b": 0.6, "c": 0.7}, 1: {"a": 0.7, "b": 0.6, "c": 0.5}},
        "unetpp": {0: {"a": 0.9, "b": 0.8}},
    }
    found = collect(list(folder(tmp_path, results).results()), "iou", pretrained=False)["cells"]
    assert (found.models, found.cases, found.groups, found.dropped) == (("unet", "unetpp"), ("a", "b"), ("p1", "p1"), 1)
    np.testing.assert_allclose(found.values[0], [[0.5, 0.6], [0.7, 0.6]])
    assert np.isnan(found.values[1, 1]).all()
    np.testing.assert_allclose(found.means, [[0.6, 0.6], [0.9, 0.8]])


def test_networks_that_start_trained_are_in_a_table_of_their_own(tmp_path):
    results = {"unet": {0: {"a": 0.5}}, "unetpp": {0: {"a": 0.9}}, "pretrained": {}}
    bench = folder(tmp_path, results)
    assert collect(list(bench.results()), "iou", pretrained=False)["cells"].models == ("unet",)
    assert collect(list(bench.results()), "iou", pretrained=True)["cells"].models == ("unetpp",)


def test_models_without_a_case_in_common_cannot_be_compared(tmp_path):
    with pytest.raises(DataError, match="no case in which every model has iou"):
        collect(
            list(folder(tmp_path, {"unet": {0: {"a": 1}}, "unetpp": {0: {"b": 1}}}).results()), "iou", pretrained=False
        )


def scores(means, runs=2, cases=30, spread=0.01):
    rng = np.random.default_rng(0)
    values = np.asarray(means)[:, None, None] + spread * rng.standard_normal((len(means), runs, cases))
    names = tuple(f"m{i}" for i in range(len(means)))
    ids = tuple(f"c{i}" for i in range(cases))
    return Scores("cells", "iou", names, ids, ids, values)


COSTS = {
    "m0": {"params_m": 1.0, "gmacs": 2.0, "per_second": 100.0, "to_reference": 0.1},
    "m1": {"params_m": 30.0, "gmacs": 50.0, "per_second": 10.0, "to_reference": 1.0},
    "m2": {"params_m": 8.0, "gmacs": 9.0, "per_second": None, "to_reference": None},
}


def test_a_verdict_orders_models_and_says_which_differ():
    verdict = judge(scores([0.6, 0.8, 0.8]), {})
    assert set(verdict.order[:2]) == {1, 2}
    assert verdict.order[2] == 0
    told = {frozenset((p.first, p.second)): p for p in verdict.pairs}
    sure, unsure = told[frozenset(("m0", "m1"))], told[frozenset(("m1", "m2"))]
    assert sure.separable
    assert sure.p < 0.001
    assert sure.difference > 0
    assert sure.false_win < 1e-6
    assert sure.cases_needed < unsure.cases_needed
    assert not verdict.ratings


def test_what_another_training_may_turn_is_no_difference():
    rng = np.random.default_rng(0)
    shift = np.array([[-0.02, 0.0, 0.02], [0.01, 0.03, 0.05]])[..., None]
    ids = tuple(f"c{i}" for i in range(60))
    verdict = judge(
        Scores("cells", "iou", ("a", "b"), ids, ids, 0.7 + shift + 0.01 * rng.standard_normal((2, 3, 60))), {}
    )
    # over cases alone the means of three runs each are far apart
    assert verdict.comparison.p[0, 1] < 1e-6
    assert [set(clique) for clique in verdict.comparison.cliques] == [{0, 1}]
    assert not verdict.pairs[0].separable


def test_the_cases_of_a_patient_are_one_block_of_the_tests():
    rng = np.random.default_rng(0)
    owners = tuple(f"p{i // 10}" for i in range(60))
    of_patient = np.repeat(0.02 * rng.standard_normal((2, 1, 6)), 10, axis=2)
    ids = tuple(f"c{i}" for i in range(60))
    found = Scores("cells", "iou", ("a", "b"), ids, owners, 0.7 + of_patient)
    np.testing.assert_allclose(found.blocks, 0.7 + of_patient[:, 0, ::10])
    alone = Scores("cells", "iou", ("a", "b"), ids[:6], ids[:6], 0.7 + of_patient[..., ::10])
    grouped, single = judge(found, {}), judge(alone, {})
    assert grouped.comparison.blocks == 6
    assert grouped.pairs[0].p == pytest.approx(single.pairs[0].p)
    assert grouped.pairs[0].cases_needed == single.pairs[0].cases_needed
    assert grouped.pairs[0].false_win == pytest.approx(single.pairs[0].false_win)


def test_data_sets_with_as_many_cases_are_drawn_each_for_itself():
    given = scores([0.6, 0.8])
    drawn = [judge(replace(given, target=name), {}).draws.drawn[:, 0] for name in ("first", "second")]
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.1


def test_u_scores_are_of_models_whose_costs_and_times_are_known():
    (rating,) = judge(scores([0.6, 0.8, 0.8]), COSTS).ratings
    assert (set(rating.scores), rating.anchors) == ({"m0", "m1"}, "cohort")
    assert {parts.anchors for parts in rating.scores.values()} == {"cohort"}
    for model, parts in rating.scores.items():
        low, high = rating.bands[model]
        assert low <= parts.score <= high
        assert 1 <= rating.ranks[model][0] <= rating.ranks[model][1] <= 2


def test_frozen_anchors_take_the_speed_on_the_machine_where_they_were_made():
    # The reference does 10 images a second here, and 137.05 there.
    given = scores([0.6, 0.68, 0.8])
    costs = {**COSTS, "m0": {**COSTS["m0"], "per_second": 5.0, "to_reference": 2.0}}
    found, own = judge(given, costs, "ubench:busi").ratings
    assert {found.anchors, *(parts.anchors for parts in found.scores.values())} == {"ubench:busi, speed by U-Net"}
    wanted = u_score(
        iou=given.means[0].mean(), params_m=1, gmacs=2, fps=5 / 10 * UBENCH_UNET_FPS, anchors="ubench:busi"
    )
    assert found.scores["m0"].score == pytest.approx(wanted)
    assert 0 < found.scores["m0"].speed < 1
    # the cohort's own beside them, as if nothing were frozen
    (alone,) = judge(given, costs).ratings
    assert (own.anchors, own.scores, own.bands, own.ranks) == ("cohort", alone.scores, alone.bands, alone.ranks)
    assert own.scores["m0"].score != pytest.approx(wanted)


def test_data_sets_join_by_the_models_that_all_have():
    first, second = judge(scores([0.6, 0.8, 0.7]), {}), judge(scores([0.5, 0.9]), {})
    models, draws = overall([first, second])
    assert models == ("m0", "m1")
    np.testing.assert_allclose(draws.means, (first.draws.means[:2] + second.draws.means) / 2)
    assert overall([first]) is None


def test_the_pareto_front_holds_what_nothing_beats():
    # better and cheaper than the second; the last costs as much as the first and is worse
    assert pareto([0.8, 0.7, 0.9, 0.75], [5, 6, 9, 5]) == [0, 2]
    assert pareto([0.8, 0.8], [5, 5]) == [0, 1]


def test_a_metric_of_one_data_set_is_not_lost_by_another(tmp_path):
    sets = {name: {"data": {"dataset": "phantom2d"}} for name in ("cells", "organs")}
    results = {model: {0: {"a": 0.5, "b": 0.6}} for model in ("unet", "unetpp")}
    bench = folder(tmp_path, results, seeds=[0], datasets=sets)
    for job, result in bench.results():
        for of_class in result["scores"]["cases"].values():
            of_class["cell"]["ap50"] = 0.25 if job.dataset == "cells" else None
        bench.write_result(job, result)
    data = bench_data(bench, list(bench.results()), {}, "iou", False, "cpu", pictures=False)
    assert {part.title: part.others.get("ap50") for part in data.parts} == {
        "cells": {"unet": 0.25, "unetpp": 0.25},
        "organs": None,
    }
    assert "Left out" not in data.method
    # nor does the page by that metric fail for the data set that lacks it
    data = bench_data(bench, list(bench.results()), {}, "ap50", False, "cpu", pictures=False)
    assert [part.title for part in data.parts] == ["cells"]
    assert data.method["Left out"] == "organs: no case in which every model has ap50"
    with pytest.raises(DataError, match="no case in which every model has pq; choose another metric"):
        bench_data(bench, list(bench.results()), {}, "pq", False, "cpu", pictures=False)


@pytest.mark.parametrize(
    ("size", "wanted"), [((256, 256), ["ubench:dsb, speed by U-Net", "cohort"]), ((32, 32, 32), ["cohort"])]
)
def test_frozen_anchors_are_of_networks_that_see_pictures(tmp_path, size, wanted):
    results = {model: {0: {"a": value, "b": 0.6}} for model, value in (("unet", 0.5), ("unetpp", 0.7))}
    bench = folder(tmp_path, results, seeds=[0], anchors={"cells": "ubench:dsb"})
    costs = {("unet", "cells"): {**COSTS["m0"], "size": size}, ("unetpp", "cells"): {**COSTS["m1"], "size": size}}
    (part,) = bench_data(bench, list(bench.results()), costs, "iou", False, "cpu", pictures=False).parts
    assert [rating.anchors for rating in part.verdict.ratings] == wanted


def test_the_method_tells_which_anchors_are_whose(tmp_path):
    sets = {name: {"data": {"dataset": "phantom2d"}} for name in ("cells", "organs")}
    bench = folder(tmp_path, {}, datasets=sets, anchors={"cells": "ubench:dsb"}).bench
    said = method(bench, "iou", False)["U-Score"]
    assert "anchors: cohort; multiply-accumulates as half of torch's" in said
    assert "anchors of cells: ubench:dsb; 2D networks alone, at 256 x 256" in said
    assert "beside them, from the same costs, scores by the cohort's own anchors" in said
    assert "ubench" not in method(folder(tmp_path / "other", {}).bench, "iou", False)["U-Score"]


def test_cases_of_a_patient_belong_together_in_other_data_too(tmp_path):
    far = {"far": {"source": "cells", "data": {"dataset": "phantom2d"}}}
    bench = folder(tmp_path, {"unet": {0: {"a": 0.5, "b": 0.6}}}, seeds=[0], models=["unet"], zero_shot=far)
    ((job, result),) = bench.results()
    moved = {"far": {**scored({"a": 0.5, "b": 0.6, "z": 0.7}), "groups": {"a": "q1", "z": "q1"}}}
    bench.write_result(job, {**result, "zero_shot": moved})
    found = collect(list(bench.results()), "iou", pretrained=False)
    assert (found["cells"].groups, found["far"].groups) == (("p1", "p1"), ("q1", "b", "q1"))
    assert {row["group"] for row in case_rows(bench) if row["target"] == "far"} == {"q1", "b"}
