"""Whole cases: several classes, ignored voxels, regions, and the named rules for absent classes."""

import math

import numpy as np
import pytest

from unetkit.errors import RecipeError, ShapeError
from unetkit.metrics import METRICS, describe, dice, evaluate_case, hd95, surface_dice
from unetkit.recipe.schema import EvaluateSection
from unetkit.types import IGNORE, Labels

LABELS = Labels(("liver", "spleen", "node"), ((1,), (2,), (3,)))
SPACING = (2.0, 0.5)
DIAGONAL = math.hypot(20 * 2.0, 30 * 0.5)


def case() -> tuple[np.ndarray, np.ndarray]:
    """Liver in both, spleen in neither, node in neither: [1, 20, 30] each."""
    pred, ref = np.zeros((2, 1, 20, 30), np.uint8)
    ref[0, 2:9, 3:12] = 1
    pred[0, 3:10, 3:11] = 1
    return pred, ref


def test_each_class_is_measured_alone():
    pred, ref = case()
    pred[0, 12:15, 20:28], ref[0, 12:16, 20:28] = 2, 2
    scores = evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(tolerance_mm=1.0))
    assert list(scores) == list(LABELS.classes)
    for index, name in enumerate(("liver", "spleen"), start=1):
        p, r = pred[0] == index, ref[0] == index
        assert scores[name]["dice"] == dice(p, r)
        assert scores[name]["hd95"] == hd95(p, r, SPACING)
        assert scores[name]["nsd"] == surface_dice(p, r, SPACING, 1.0)
        assert scores[name]["predicted_voxels"] == p.sum()


def test_options_reach_the_metrics():
    pred, ref = case()
    p, r = pred[0] == 1, ref[0] == 1
    rules = EvaluateSection(surface="element", hd95="pooled", spacing="unit")
    scores = evaluate_case(pred, ref, LABELS, SPACING, rules)
    assert scores["liver"]["hd95"] == hd95(p, r, (1.0, 1.0), surface="element", method="pooled")
    overlap_only = evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(distances=False))
    assert "hd95" not in overlap_only["liver"]


def test_workers_do_not_change_the_scores():
    pred, ref = case()
    one, four = (evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(empty="worst"), workers=n) for n in (1, 4))
    assert one == four


def test_ignored_voxels_count_for_neither():
    pred, ref = case()
    clean = evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(empty="one"))
    ref[0, 15:, :] = IGNORE
    pred[0, 17:, :] = 1
    pred[0, 15:17, :5] = IGNORE
    assert evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(empty="one")) == clean


def test_regions_may_overlap():
    labels = Labels(("whole", "core"), ((1, 2), (2,)), regions=True)
    ref = np.zeros((2, 9, 9), np.uint8)
    ref[0, 1:8, 1:8] = ref[1, 3:5, 3:5] = 1
    pred = ref.copy()
    pred[1, 3, 3] = 0
    scores = evaluate_case(pred, ref, labels, (1.0, 1.0), EvaluateSection())
    assert scores["whole"]["dice"] == 1
    assert scores["core"]["dice"] == pytest.approx(6 / 7)


def absent(rule: str, *, predicted: bool, wanted: bool) -> dict[str, float]:
    """Scores of the spleen that only one map has, or none."""
    pred, ref = case()
    pred[0, 15:18, 5:9] = 2 * predicted
    ref[0, 15:18, 5:9] = 2 * wanted
    return evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(empty=rule))["spleen"]


NAN = math.nan
TABLE = [
    # rule, predicted, in the reference: dice, precision, recall, volume_difference, hd95, nsd
    ("skip", False, False, (NAN, NAN, NAN, NAN, NAN, NAN)),
    ("skip", True, False, (NAN, NAN, NAN, NAN, NAN, NAN)),
    ("skip", False, True, (0, NAN, 0, -1, NAN, 0)),
    ("one", False, False, (1, 1, 1, 0, 0, 1)),
    ("one", True, False, (0, 0, NAN, NAN, NAN, 0)),
    ("one", False, True, (0, NAN, 0, -1, NAN, 0)),
    ("worst", False, False, (1, 1, 1, 0, 0, 1)),
    ("worst", True, False, (0, 0, 0, NAN, DIAGONAL, 0)),
    ("worst", False, True, (0, 0, 0, -1, DIAGONAL, 0)),
    ("zero", False, False, (0, 0, 0, NAN, NAN, 0)),
    ("zero", True, False, (0, 0, 0, NAN, NAN, 0)),
    ("zero", False, True, (0, 0, 0, -1, NAN, 0)),
    ("synapse", False, False, (0, NAN, NAN, NAN, 0, NAN)),
    ("synapse", True, False, (1, NAN, NAN, NAN, 0, NAN)),
    ("synapse", False, True, (0, NAN, NAN, NAN, 0, NAN)),
]


@pytest.mark.parametrize(("rule", "predicted", "wanted", "expected"), TABLE)
def test_empty_rules(rule, predicted, wanted, expected):
    scores = absent(rule, predicted=predicted, wanted=wanted)
    given = [scores[m] for m in ("dice", "precision", "recall", "volume_difference", "hd95", "nsd")]
    np.testing.assert_allclose(given, expected)


@pytest.mark.parametrize("rule", ["skip", "one", "worst", "zero", "synapse"])
def test_no_rule_touches_a_class_that_both_have(rule):
    pred, ref = case()
    assert (
        evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection(empty=rule))["liver"]
        == evaluate_case(pred, ref, LABELS, SPACING, EvaluateSection())["liver"]
    )


def test_maps_that_do_not_fit_are_refused():
    pred, ref = case()
    with pytest.raises(ShapeError, match="prediction: int64 of shape"):
        evaluate_case(pred.astype(np.int64), ref, LABELS, SPACING, EvaluateSection())
    with pytest.raises(ShapeError, match=r"encoded labels are uint8 \[1, \*S\] here"):
        evaluate_case(pred[0], ref, LABELS, SPACING, EvaluateSection())
    with pytest.raises(ShapeError, match="differ in shape"):
        evaluate_case(pred, ref[:, 1:], LABELS, SPACING, EvaluateSection())
    with pytest.raises(ShapeError, match="give one positive number per axis"):
        evaluate_case(pred, ref, LABELS, (1.0, 1.0, 1.0), EvaluateSection())
    with pytest.raises(ShapeError, match="give one positive number per axis"):
        evaluate_case(*case(), LABELS, (1.0, 1.0, 1.0), EvaluateSection(distances=False, empty="worst"))


def test_unknown_rule_is_refused():
    pred, ref = case()
    rules = EvaluateSection().model_copy(update={"empty": "skipped"})
    with pytest.raises(RecipeError, match=r"evaluate.empty 'skipped' \(did you mean 'skip'\?\)"):
        evaluate_case(pred, ref, LABELS, SPACING, rules)


def test_description_names_what_was_chosen():
    rules = EvaluateSection(surface="element", hd95="pooled", tolerance_mm=3.0, spacing="unit", empty="worst")
    said = describe(rules, instances=True)
    assert set(METRICS) <= set(said)
    assert "pq" not in describe(rules)
    assert "area elements" in said["hd95"]
    assert "both directions together" in said["hd95"]
    assert "at most 3 voxels" in said["nsd"]
    assert said["unit"] == "voxels"
    assert "diagonal" in said["empty"]
