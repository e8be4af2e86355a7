"""Objects from queries: scores, suppression of doubles, joining over windows, and the whole way through a Predictor."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetkit.blocks.queries import Queries
from unetkit.errors import DataError, RecipeError
from unetkit.infer.device import pick_compute
from unetkit.infer.forward import WindowSettings
from unetkit.infer.instances import check_instance_settings
from unetkit.infer.load import load
from unetkit.infer.predictor import Predictor
from unetkit.infer.queries import Found, cleaned, encoded_objects, find_objects, joined_windows, numbered, suppressed
from unetkit.plan import Normalization
from unetkit.recipe.schema import InferSection, PostprocessRule
from unetkit.registry import model_info
from unetkit.types import Labels, Volume, instance_numbers

CELLS = Labels(("cell",), ((1,),), instances=True)
FLAT = {"channels": ("grey",), "labels": CELLS, "normalization": (Normalization("none"),), "mirror_axes": ()}


def square(top: int, left: int, side: int, size: tuple[int, int] = (12, 12)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def whole(mask: np.ndarray, score: float = 0.9) -> Found:
    return Found(score, tuple(slice(0, n) for n in mask.shape), mask)


class Reader(nn.Module):
    """Finds the objects whose numbers are the grey values of an image; 0.9, 0.8, ... are the chances of 1, 2, ..."""

    info = model_info("iaunet")

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def queries(self, image: Tensor) -> list[Queries]:
        numbers = torch.arange(1, 8)
        masks = torch.where(image.round() == numbers[None, :, None, None], 20.0, -20.0)
        chance = 1 - numbers / 10
        classes = torch.stack((chance.log(), (1 - chance).log()), dim=1)[None]
        return [Queries(classes, masks * self.one, torch.zeros(1, 7, 4))]

    def forward(self, image: Tensor) -> Tensor:
        inside = torch.where(image > 0, 5.0, -5.0)
        return torch.cat((torch.zeros_like(inside), inside), dim=1)


def picture() -> np.ndarray:
    """Seven objects; 1 is longer than a window, 2 and 3 touch, 4 lies at a corner of windows."""
    numbers = np.zeros((50, 70), np.uint8)
    numbers[4:9, 3:66] = 1
    numbers[20:30, 10:18], numbers[20:30, 18:30] = 2, 3
    numbers[22:34, 36:52] = 4
    numbers[40:48, 2:8], numbers[45:50, 60:70], numbers[36:39, 20:24] = 5, 6, 7
    return numbers


def same_objects(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack((one.ravel(), other.ravel())), axis=1)
    return len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))


def test_suppression_keeps_the_best_of_nearly_equal_masks() -> None:
    masks = np.stack([square(0, 0, 8), square(0, 0, 8), square(1, 0, 8), square(4, 4, 8)])
    assert suppressed(masks, 0.8) == [0, 2, 3]  # 1 is 0; of 2 it is 56 / 72
    assert suppressed(masks, 0.7) == [0, 3]
    assert suppressed(masks[:0], 0.8) == []


def test_of_overlapping_objects_the_best_goes_over() -> None:
    numbers, scores = numbered([whole(square(0, 0, 6), 0.9), whole(square(0, 4, 6), 0.8)], (12, 12))
    assert numbers[0, 5] == 1
    assert (numbers == 2).sum() == 36 - 2 * 6
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    numbers, scores = numbered([whole(square(0, 0, 6)), whole(square(0, 1, 6))], (12, 12))
    assert numbers.max() == len(scores) == 1  # less than half is left of the second


def test_windows_join_what_both_see_alike() -> None:
    boxes = [(slice(0, 12), slice(0, 12)), (slice(0, 12), slice(6, 18))]
    # one object reaches over both windows; another only one of them has seen; two differ where both see
    left = [Found(0.6, boxes[0], square(1, 4, 8)), Found(0.7, boxes[0], square(10, 0, 2))]
    right = [Found(0.9, boxes[1], square(1, 0, 8)), Found(0.5, boxes[1], square(10, 4, 2))]
    joined = joined_windows([left, right], boxes)
    assert [one.score for one in joined] == [0.9, 0.7, 0.5]
    image = (slice(0, 12), slice(0, 18))
    union = np.zeros((12, 18), bool)
    union[1:9, 4:14] = True
    assert np.array_equal(joined[0].within(image), union)
    small = Found(0.4, boxes[1], square(1, 0, 3))  # within the first window's object, and no half of it
    assert len(joined_windows([left[:1], [small]], boxes)) == 2


@pytest.mark.parametrize("window", [(16, 16), (32, 32), (64, 96)])
def test_windows_find_the_objects_of_the_whole_image(window: tuple[int, int]) -> None:
    truth = picture()
    image = torch.from_numpy(truth).float()[None]
    found = find_objects(Reader(), image, window, InferSection(query_score=0.01), WindowSettings(overlap=0.5))
    numbers, scores = numbered(found, truth.shape)
    assert same_objects(numbers, truth)
    assert sorted(scores.tolist(), reverse=True) == scores.tolist()
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], abs=1e-3)


def test_threshold_is_of_class_times_mask() -> None:
    image = torch.from_numpy(picture()).float()[None]
    settings = {score: InferSection(query_score=score) for score in (0.55, 0.99)}
    kept = {s: find_objects(Reader(), image, (64, 96), of, WindowSettings()) for s, of in settings.items()}
    assert {s: len(found) for s, found in kept.items()} == {0.55: 4, 0.99: 0}
    unsure = Reader()
    nn.init.constant_(unsure.one, 0.05)  # masks of a chance of 0.73
    found = find_objects(unsure, image, (64, 96), settings[0.55], WindowSettings())
    assert [one.score for one in found] == pytest.approx([0.9 * 0.731, 0.8 * 0.731], abs=1e-3)


def test_objects_are_cleaned_with_their_scores() -> None:
    numbers = np.zeros((6, 8), np.int32)
    numbers[:, :3], numbers[0, 4], numbers[3:, 5:] = 1, 2, 3
    inside = numbers > 0
    inside[2, 6] = True  # a filled hole
    inside[:, 0] = False
    cleared, scores = cleaned(numbers, inside, np.float32([0.9, 0.8, 0.7]), 2)
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert cleared.max() == 2
    assert cleared[2, 6] == 2
    assert not cleared[:, 0].any()
    assert not cleared[0, 4]
    with pytest.raises(DataError, match="here: 70000 objects"):
        encoded_objects(np.full((1, 1), 70000), (1.0, 1.0), "here")


def test_predictor_takes_objects_from_queries(make_plan_2d) -> None:
    truth = picture()
    plan, compute = make_plan_2d(**FLAT), pick_compute(torch.device("cpu"), "fp32")
    predictor = Predictor(Reader(), plan, InferSection(query_score=0.35), compute)
    volume = Volume(truth[None].astype(np.float32), (1.0, 1.0))
    found = predictor.segment(predictor.prepare(volume, "a"), probabilities=True)
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], abs=1e-3)
    assert np.array_equal(instance_numbers(found.encoded), np.where(truth < 7, truth, 0))
    assert found.chances is not None
    assert np.array_equal(found.chances[0] > 0.5, truth > 0)
    assert found.chances[1].max() == 1  # the distance to the border
    largest = InferSection(query_score=0.35, postprocess=[PostprocessRule(rule="keep_largest")])
    alone = Predictor(Reader(), plan, largest, compute).segment(predictor.prepare(volume, "a"))
    assert alone.scores is not None
    assert len(alone.scores) == 1
    assert predictor.predict(truth.astype(np.float32)).max() == 6


def test_a_saved_network_predicts_objects(save_run, make_plan_2d) -> None:
    plan = make_plan_2d(**FLAT)
    model = {"name": "iaunet", "encoder": "resnet18", "channels": 8, "queries": 6, "decoder_layers": 1}
    run = save_run(plan, model=model, data={"instances": True})
    numbers = load(run, "cpu", query_score=0.0).predict(
        np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    )
    assert numbers.shape == (40, 50)
    with pytest.raises(RecipeError, match="several networks have no mean"):
        Predictor.from_folds([run, run], "cpu")
    with pytest.raises(RecipeError, match="marker_threshold has no use here, where objects come from queries"):
        load(run, "cpu", marker_threshold=0.3)


def test_settings_of_other_objects_are_refused() -> None:
    with pytest.raises(RecipeError, match="query_score has no use here, where objects come from a watershed"):
        check_instance_settings(InferSection(query_score=0.3), CELLS)
    with pytest.raises(RecipeError, match="query_nms is for instances"):
        check_instance_settings(InferSection(query_nms=0.5), Labels(("organ",), ((1,),)), queries=True)
    with pytest.raises(RecipeError, match="mirrored images have no mean"):
        check_instance_settings(InferSection(mirror=True), CELLS, queries=True)
