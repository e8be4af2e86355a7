"""The loss of queries: its matching, what it does not depend on, and labels without or with too many objects."""

from itertools import permutations

import numpy as np
import pytest
import torch

from unetkit.blocks.queries import Queries
from unetkit.data.instances import encode_instances
from unetkit.engine.losses import build_loss
from unetkit.engine.losses.matching import at_points, cheapest, mask_costs, unsure_points, voxel_centres
from unetkit.engine.losses.queries import QueryLoss, objects_of
from unetkit.engine.optim import build_optimizer, set_learning_rate
from unetkit.errors import RecipeError
from unetkit.recipe.training import LossSection, OptimizerSection
from unetkit.registry import create_model
from unetkit.types import IGNORE, Labels

CELLS = Labels(("cell",), ((1,),), instances=True)
QUERIES = 4


def label(*rows: str) -> torch.Tensor:
    """Encode digits, the numbers of objects, each of which is a square of 4 voxels."""
    numbers = np.kron([[int(digit) for digit in row] for row in rows], np.ones((4, 4), int))
    return torch.from_numpy(encode_instances(numbers, (), "here"))


LABELS = torch.stack([label("1102", "1102", "0000", "3333"), label("0000", "0770", "0770", "0000")])


def loss(points: int = 1000) -> QueryLoss:
    return QueryLoss(points, class_weight=1.0, mask_weight=5.0, dice_weight=2.0, no_object=0.1)


def found(batch: int = 2, queries: int = QUERIES, seed: int = 0) -> Queries:
    draw = torch.Generator().manual_seed(seed)
    made = (torch.randn(batch, queries, *rest, generator=draw) for rest in ((2,), (4, 4), (4,)))
    return Queries(*(one.requires_grad_() for one in made))


def perfect(labels: torch.Tensor) -> Queries:
    masks = torch.full((len(labels), QUERIES, 16, 16), -20.0)
    classes = torch.tensor([-20.0, 20.0]).repeat(len(labels), QUERIES, 1)
    for sample, one in enumerate(labels):
        objects = objects_of(one).masks
        masks[sample, : len(objects)] += 40 * objects
        classes[sample, : len(objects)] = torch.tensor([20.0, -20.0])
    return Queries(classes, masks, torch.zeros(len(labels), QUERIES, 4))


def test_matching_is_the_best_of_all_permutations() -> None:
    objects = objects_of(LABELS[0])
    points = voxel_centres(objects.masks.shape[1:], objects.masks)
    valid, truth = torch.ones(len(points)), at_points(objects.masks, points, "nearest")
    for seed in range(5):
        entropy, dice = mask_costs(at_points(found(seed=seed).masks[0].detach(), points), truth, valid)
        costs = 5 * entropy + 2 * dice
        queries, chosen = cheapest(costs)
        best = min(
            sum(costs[q, n] for n, q in enumerate(some)) for some in permutations(range(QUERIES), len(objects.masks))
        )
        assert costs[queries, chosen].sum().item() == pytest.approx(best.item())


def test_costs_are_those_of_each_pair_alone() -> None:
    logits, truth, valid = torch.randn(3, 50), (torch.rand(2, 50) > 0.5).float(), (torch.rand(50) > 0.2).float()
    entropy, dice = mask_costs(logits, truth, valid)
    kept, one, other = valid > 0, logits[1], truth[0]
    alone = torch.nn.functional.binary_cross_entropy_with_logits(one[kept], other[kept])
    assert float(entropy[1, 0]) == pytest.approx(float(alone), rel=1e-5)
    inside = one.sigmoid()[kept]
    shared = 2 * (inside * other[kept]).sum() + 1
    assert float(dice[1, 0]) == pytest.approx(float(1 - shared / (inside.sum() + other[kept].sum() + 1)), rel=1e-5)


def test_order_of_queries_and_numbers_of_objects_mean_nothing() -> None:
    one, order = found(), torch.tensor([2, 0, 3, 1])
    shuffled = Queries(*(part[:, order] for part in one))
    renumbered = torch.stack([label("9905", "9905", "0000", "2222"), LABELS[1]])
    expected = loss()([one], LABELS).item()
    assert loss()([shuffled], LABELS).item() == pytest.approx(expected, rel=1e-5)
    assert loss()([one], renumbered).item() == pytest.approx(expected, rel=1e-5)
    assert loss()([one, one], LABELS).item() == pytest.approx(2 * expected, rel=1e-5)


def test_perfect_queries_cost_nothing_and_a_missed_object_does() -> None:
    right = perfect(LABELS)
    assert loss()([right], LABELS).item() < 1e-3
    missed = right.masks.clone()
    missed[0, 0] = -20.0
    assert loss()([right._replace(masks=missed)], LABELS).item() > 1


def test_images_without_objects_and_with_more_than_queries() -> None:
    empty = torch.zeros_like(LABELS)
    one = found()
    value = loss()([one], empty)
    value.backward()
    assert value.isfinite()
    assert one.masks.grad is not None
    assert not one.masks.grad.any()  # nothing to compare masks with
    assert one.classes.grad is not None
    assert one.classes.grad.any()
    few = found(queries=2)
    assert loss()([few], LABELS).isfinite()  # three objects
    assert loss()([perfect(empty)], empty).item() < 1e-3


def test_what_is_ignored_says_nothing() -> None:
    labels, one = LABELS.clone(), found()
    labels[:, :, 4:8, 8:] = IGNORE  # the lower half of object 2, and background
    known = loss()([one], labels)
    masks = one.masks.detach().clone()
    masks[:, :, 1, 3] += 50.0  # the middle of it: one of four rows and columns of a mask
    changed = torch.nn.functional.interpolate(masks, size=(16, 16), mode="nearest")
    same = torch.nn.functional.interpolate(one.masks.detach(), size=(16, 16), mode="nearest")
    first, second = (loss()([one._replace(masks=m)], labels).item() for m in (same, changed))
    assert first == pytest.approx(second)
    assert known.isfinite()
    assert objects_of(labels[0]).masks[1].sum() == 16  # of 2 x 4 x 4 voxels


def test_random_points_are_close_to_all_voxels() -> None:
    torch.manual_seed(0)
    one, every = perfect(LABELS), loss()
    blurred = one._replace(
        masks=one.masks / 20 + torch.randn(one.masks.shape, generator=torch.Generator().manual_seed(1))
    )
    sampled = QueryLoss(200, class_weight=1.0, mask_weight=5.0, dice_weight=2.0, no_object=0.1)
    assert sampled([blurred], LABELS).item() == pytest.approx(every([blurred], LABELS).item(), rel=0.6)
    logits = torch.linspace(-5, 5, 16).expand(2, 16, 16)
    points = unsure_points(logits, 400)
    assert points.shape == (2, 400, 2)
    assert at_points(logits, points).abs()[:, :300].mean() < 1.5  # anywhere: 2.5


def test_loss_is_chosen_by_network_and_labels() -> None:
    chosen = build_loss(LossSection(), CELLS, learns="queries")
    assert isinstance(chosen, QueryLoss)
    assert (chosen.points, chosen.mask_weight, chosen.dice_weight, chosen.no_object) == (12544, 5.0, 2.0, 0.1)
    with pytest.raises(RecipeError, match="name=queries does not fit the labels; use distance"):
        build_loss(LossSection(name="queries"), CELLS)
    with pytest.raises(RecipeError, match="name=distance does not fit the labels; use queries"):
        build_loss(LossSection(name="distance"), CELLS, learns="queries")
    with pytest.raises(RecipeError, match="dice_weight is not used by the loss 'queries'"):
        build_loss(LossSection(dice_weight=2.0), CELLS, learns="queries")
    two = Labels(("a", "b"), ((1,), (2,)), regions=True)
    with pytest.raises(RecipeError, match="queries leave no voxel to two classes"):
        build_loss(LossSection(), two, learns="queries")
    assert build_loss(LossSection(), Labels(("a",), ((1,),)), learns="queries")


def test_encoder_has_a_rate_of_its_own() -> None:
    options = {"encoder": "resnet18", "channels": 8, "queries": 2, "decoder_layers": 1}
    network = create_model("iaunet", in_channels=1, patch_size=(32, 32), **options)
    for name in ("adamw", "sgd"):
        optimizer = build_optimizer(network, OptimizerSection(name=name, encoder_scale=0.1))
        set_learning_rate(optimizer, 0.5)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == len(list(network.parameters()))
        for key, parameter in network.named_parameters():
            assert rates[id(parameter)] == pytest.approx(0.05 if key.startswith("encoder.") else 0.5)
    with pytest.raises(RecipeError, match=r"encoder_scale=0\.1: this network has no encoder"):
        build_optimizer(torch.nn.Linear(2, 2), OptimizerSection(encoder_scale=0.1))
