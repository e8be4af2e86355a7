"""The loss of foreground and distance, by hand and by what it refuses."""

import math

import numpy as np
import pytest
import torch

from unetkit.data.instances import encode_instances
from unetkit.engine.losses import build_loss
from unetkit.errors import RecipeError
from unetkit.recipe import resolve
from unetkit.recipe.training import LossSection
from unetkit.types import IGNORE, Labels

CELLS = Labels(("cell",), ((1,),), instances=True)
REGIONS = Labels(("cell",), ((1,),), regions=True)


def _labels() -> torch.Tensor:
    numbers = np.zeros((12, 16), int)
    numbers[2:9, 1:8], numbers[2:9, 8:15] = 1, 2
    return torch.from_numpy(encode_instances(numbers, (), "here"))[None]


def test_it_is_dice_bce_of_the_foreground_and_cross_entropy_of_the_distance() -> None:
    labels = _labels()
    logits = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = labels[:, 1].double() / 254
    chance = logits[:, 1].sigmoid()
    entropy = -(target * chance.log() + (1 - target) * (1 - chance).log()).mean()
    expected = build_loss(LossSection(), REGIONS)(logits[:, :1], labels[:, :1]) + 0.5 * entropy
    assert build_loss(LossSection(distance_weight=0.5), CELLS)(logits, labels).item() == pytest.approx(expected.item())


def test_the_true_distance_is_its_minimum() -> None:
    labels, loss = _labels(), build_loss(LossSection(), CELLS)
    logits = torch.stack([torch.where(labels[:, 0] == 1, 20.0, -20.0), torch.logit(labels[:, 1] / 254, 1e-6)], 1)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, labels), logits)
    assert slope.abs().max() < 1e-6


def test_ignored_voxels_teach_nothing() -> None:
    labels = _labels()
    labels[..., :5] = IGNORE
    logits = torch.zeros(1, 2, 12, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(build_loss(LossSection(), CELLS)(logits, labels), logits)
    assert slope[..., :5].abs().max() == 0
    assert slope[..., 5:].abs().max() > 0
    assert math.isfinite(build_loss(LossSection(), CELLS)(logits, torch.full_like(labels, IGNORE)).item())


def test_coarser_outputs_are_compared_with_nearest_labels() -> None:
    labels, loss = _labels(), build_loss(LossSection(), CELLS)
    outputs = tuple(torch.zeros(1, 2, 12 // n, 16 // n) for n in (1, 2, 4))
    assert math.isfinite(loss(outputs, labels).item())


@pytest.mark.parametrize(
    ("section", "labels"), [(LossSection(name="distance"), REGIONS), (LossSection(name="ce"), CELLS)]
)
def test_losses_that_do_not_fit_are_refused(section: LossSection, labels: Labels) -> None:
    with pytest.raises(RecipeError, match=f"train.loss.name={section.name} does not fit the labels; use "):
        build_loss(section, labels)


def test_a_key_that_nobody_reads_is_refused() -> None:
    with pytest.raises(RecipeError, match="distance_weight is not used by the loss 'dice_bce'"):
        build_loss(LossSection(distance_weight=2.0), REGIONS)
    with pytest.raises(RecipeError, match=r"data\.instances: objects are told apart by one network"):
        resolve(["data.root=here", "data.instances=true", "plan.configuration=all"])
