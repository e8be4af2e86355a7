"""Postprocessing is chosen by what it does to the Dice, and by nothing else."""

import numpy as np
import pytest

from unetkit.evaluation.choose import Mapped, choose_rules, dice_by_class
from unetkit.evaluation.components import take_apart
from unetkit.infer.postprocess import postprocess
from unetkit.metrics import dice
from unetkit.recipe import PostprocessRule
from unetkit.types import IGNORE, Labels, Volume

LABELS = Labels(("left", "right"), ((1,), (2,)))
REGIONS = Labels(("whole", "core"), ((1,), (2,)), regions=True)


def noise(seed: int, labels: Labels, shape=(9, 10, 11)):
    rng = np.random.default_rng(seed)
    if labels.regions:
        return (rng.random((2, *shape)) < 0.3).astype(np.uint8)
    return rng.choice(3, size=(1, *shape), p=(0.6, 0.2, 0.2)).astype(np.uint8)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("seed", range(3))
def test_counts_of_components_give_the_dice_of_changed_label_maps(labels, seed):
    predicted, truth = noise(seed, labels), noise(seed + 10, labels)
    truth[:, 0] = IGNORE
    grid = Volume(np.zeros((1, *predicted.shape[1:]), np.uint8), (0.5, 1.0, 2.0), None)
    parts = take_apart("c", predicted, truth, labels, 1.0)

    def after(**rule):
        changed = postprocess(predicted, [PostprocessRule(**rule)], labels, grid)
        return dice_by_class(changed, truth, labels)

    assert [c.dice() for c in parts.classes] == pytest.approx(dice_by_class(predicted, truth, labels))
    assert [c.dice(c.largest()) for c in parts.classes] == pytest.approx(after(rule="keep_largest"))
    assert [c.dice(c.at_least(3.0)) for c in parts.classes] == pytest.approx(after(rule="drop_small", smallest=3.0))
    one = [c.dice() for c in parts.of_largest_object().classes]
    assert one == pytest.approx(after(rule="keep_largest", together=True))
    for number, name in enumerate(labels.classes):
        filled = after(rule="fill_holes", classes=[name])[number]
        assert parts.classes[number].filled() == pytest.approx(filled)
    layer = 0 if labels.regions else 1
    first = (predicted[0] == 1, truth[0] == 1)
    known = truth[layer if labels.regions else 0] != IGNORE
    assert parts.classes[0].dice() == pytest.approx(dice(first[0] & known, first[1] & known))


def body(seed: int, wrong: str) -> Mapped:
    """Two organs; the network sees a speck besides, or confuses the sides of a part, or leaves a hole."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((1, 24, 12, 12), np.uint8)
    truth[0, 3:9, 3:9, 3 : 8 + rng.integers(3)] = 1
    truth[0, 15:21, 3:9, 3:9] = 2
    predicted = truth.copy()
    if wrong == "speck":
        predicted[0, 11:13, 10, 10] = 1
    if wrong == "sides":
        predicted[0, 3:5, 3:9, 3:9] = np.where(truth[0, 3:5, 3:9, 3:9] == 1, 2, 0)
        predicted[0, 5] = 0
    if wrong == "hole":
        predicted[0, 17:19, 5:7, 5:7] = 0
    return Mapped(f"c{seed}", predicted, truth, Volume(truth, (1.0, 1.0, 1.0), np.eye(4)))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("nothing", []), ("speck", ["keep_largest"]), ("hole", ["fill_holes"]), ("sides", ["swap_sides"])],
)
def test_what_helps_is_chosen_and_what_does_not_is_left(wrong, expected):
    cases = [body(seed, wrong) for seed in range(4)]
    choice = choose_rules(lambda: iter(cases), LABELS, [("left", "right")])
    assert [rule.rule for rule in choice.rules] == expected
    assert (choice.after > choice.before) == bool(expected)
    if wrong == "nothing":
        assert choice.before == 1.0
    assert len(choice.reasons) >= 3


def test_a_rule_that_helps_one_case_and_hurts_more_is_left():
    helped = body(0, "speck")
    hurt = [body(seed, "nothing") for seed in (1, 2)]
    for case in hurt:  # organs of two parts each
        case.truth[0, 0:2, 0:2, 0:2] = case.predicted[0, 0:2, 0:2, 0:2] = 1
        case.truth[0, 22:, 10:, 10:] = case.predicted[0, 22:, 10:, 10:] = 2
    choice = choose_rules(lambda: iter([helped, *hurt]), LABELS)
    assert [rule.rule for rule in choice.rules] != ["keep_largest"]
    assert choice.after >= choice.before
