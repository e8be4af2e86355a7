"""Losses against reference values, and the properties that the ignore label and deep supervision promise."""

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, TverskyLoss
from torch.nn import functional as F

from unetkit.engine.losses import build_loss, supervision_weights
from unetkit.engine.losses.boundary import signed_distance
from unetkit.engine.losses.build import nearest
from unetkit.errors import RecipeError
from unetkit.recipe.training import LossSection
from unetkit.types import IGNORE, Labels

ORGANS = Labels(("liver", "spleen"), ((1,), (2,)))
REGIONS = Labels(("whole", "core"), ((1, 2), (2,)), regions=True)
EXCLUSIVE = ("dice_ce", "dice", "ce", "focal", "tversky", "boundary")
OVERLAPPING = ("dice_bce", "dice", "focal", "tversky", "boundary")


def batch(labels: Labels, size=(6, 8), ignored=0.0, seed=0, dtype=torch.float32):
    """Random logits [2, K, *size] and labels of them, a share of which is IGNORE."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.num_outputs, *size, generator=draw).to(dtype)
    channels, high = (labels.num_outputs, 2) if labels.regions else (1, labels.num_outputs)
    target = torch.randint(0, high, (2, channels, *size), generator=draw).to(torch.uint8)
    target[torch.rand(target.shape, generator=draw) < ignored] = IGNORE
    return logits, target


def section(name: str, **changes) -> LossSection:
    return LossSection(name=name, **changes)


@pytest.mark.parametrize("size", [(6, 8), (4, 6, 5)])
def test_dice_ce_is_monais_where_the_definitions_agree(size):
    logits, target = batch(ORGANS, size)
    theirs = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True)(logits, target.float())
    assert build_loss(section("dice_ce"), ORGANS)(logits, target) == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize(("batch_dice", "squared", "background"), [(True, False, True), (False, True, False)])
def test_dice_options_are_monais(batch_dice, squared, background):
    logits, target = batch(ORGANS)
    theirs = DiceCELoss(
        include_background=background, softmax=True, to_onehot_y=True, batch=batch_dice, squared_pred=squared
    )(logits, target.float())
    ours = build_loss(
        section("dice_ce", batch_dice=batch_dice, dice_squared=squared, dice_background=background), ORGANS
    )
    assert ours(logits, target) == pytest.approx(theirs.item(), abs=1e-6)


def test_tversky_is_monais():
    logits, target = batch(ORGANS)
    theirs = TverskyLoss(include_background=False, softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)
    assert build_loss(section("tversky"), ORGANS)(logits, target) == pytest.approx(
        theirs(logits, target.float()).item(), abs=1e-5
    )


def test_dice_ce_by_hand_as_nnunet_computes_it():
    # two voxels, two classes; p(class 1) = 0.8 and 0.4, labels 1 and 0
    p = torch.tensor([0.8, 0.4])
    logits = torch.stack([torch.log(1 - p), torch.log(p)]).view(1, 2, 1, 2)
    target = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 2)
    dice = (2 * 0.8 + 1e-5) / (0.8 + 0.4 + 1 + 1e-5)
    cross_entropy = -(math.log(0.8) + math.log(0.6)) / 2
    value = build_loss(section("dice_ce"), Labels(("lesion",), ((1,),)))(logits, target)
    assert value.item() == pytest.approx(1 - dice + cross_entropy, abs=1e-6)


def test_regions_use_sigmoid_and_binary_cross_entropy():
    logits, target = batch(REGIONS)
    wanted = target.float()
    p = logits.sigmoid()
    dice = (2 * (p * wanted).sum((2, 3)) + 1e-5) / (p.sum((2, 3)) + wanted.sum((2, 3)) + 1e-5)
    expected = 1 - dice.mean() + F.binary_cross_entropy_with_logits(logits, wanted)
    assert build_loss(section("auto"), REGIONS)(logits, target) == pytest.approx(expected.item(), abs=1e-6)


def test_class_weights_and_ignore_are_those_of_torch():
    logits, target = batch(ORGANS, ignored=0.3)
    theirs = F.cross_entropy(logits, target[:, 0].long(), weight=torch.tensor([0.2, 1.0, 3.0]), ignore_index=IGNORE)
    ours = build_loss(section("ce", class_weights=[0.2, 1.0, 3.0]), ORGANS)
    assert ours(logits, target) == pytest.approx(theirs.item(), abs=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy_and_less_otherwise():
    logits, target = batch(ORGANS, ignored=0.2)
    entropy = build_loss(section("ce"), ORGANS)(logits, target)
    assert build_loss(section("focal", focal_gamma=0.0), ORGANS)(logits, target) == pytest.approx(entropy.item())
    assert build_loss(section("focal"), ORGANS)(logits, target) < entropy


CASES = [(name, ORGANS) for name in EXCLUSIVE] + [(name, REGIONS) for name in OVERLAPPING]


@pytest.mark.parametrize(("name", "labels"), CASES)
def test_ignored_voxels_change_nothing(name, labels):
    logits, target = batch(labels, ignored=0.4)
    loss = build_loss(section(name), labels)
    loss.progress.fill_(1.0)
    other = torch.where((target == IGNORE).expand_as(logits), torch.randn_like(logits) * 50, logits)
    assert loss(other, target) == pytest.approx(loss(logits, target).item(), abs=1e-7)
    logits.requires_grad_(True)
    loss(logits, target).backward()
    assert (logits.grad[(target == IGNORE).expand_as(logits)] == 0).all()


@pytest.mark.parametrize(("name", "labels"), CASES)
@pytest.mark.parametrize("fill", [0, 1, IGNORE])
def test_absent_full_and_ignored_classes_are_finite(name, labels, fill):
    logits, target = batch(labels)
    target.fill_(fill)
    logits = (logits * 100).requires_grad_(True)
    value = build_loss(section(name, **({} if name in ("ce", "focal") else {"smooth": 0.0})), labels)(logits, target)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "labels"), CASES)
def test_gradients_are_right(name, labels):
    logits, target = batch(labels, size=(3, 4), ignored=0.2, dtype=torch.float64)
    loss = build_loss(section(name), labels)
    loss.progress.fill_(0.5)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_(True), eps=1e-6, atol=1e-5)


def test_sums_are_fp32_under_autocast():
    logits, target = batch(ORGANS, size=(128, 128))
    loss = build_loss(section("dice_ce"), ORGANS)
    exact = loss(logits.bfloat16().float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(logits.bfloat16(), target) == exact


@pytest.mark.parametrize(("levels", "weights"), [(1, [1]), (2, [1, 0]), (4, [4 / 7, 2 / 7, 1 / 7, 0])])
def test_supervision_weights(levels, weights):
    assert supervision_weights(levels) == pytest.approx(weights)


def test_deep_supervision_is_the_weighted_sum_over_resolutions():
    logits, target = batch(ORGANS, size=(8, 8))
    half = F.avg_pool2d(logits, 2)
    quarter = F.avg_pool2d(logits, 4)
    loss = build_loss(section("dice_ce"), ORGANS)
    small = F.interpolate(target.float(), scale_factor=0.5, mode="nearest-exact").to(torch.uint8)
    expected = (2 * loss(logits, target) + loss(half, small)) / 3
    assert loss((logits, half, quarter), target) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("size", [(4, 3, 5), (7, 9, 10), (1, 6, 5)])
def test_nearest_is_torchs_nearest_exact(size):
    labels = torch.randint(0, 5, (2, 1, 7, 9, 10), dtype=torch.uint8)
    expected = F.interpolate(labels.float(), size, mode="nearest-exact").to(torch.uint8)
    assert torch.equal(nearest(labels, size), expected)


def test_signed_distance_of_a_line():
    mask = np.array([[0, 0, 1, 1, 1, 0]], bool)
    assert signed_distance(mask).tolist() == [[2, 1, 0, -1, 0, 1]]
    assert not signed_distance(np.zeros((3, 3), bool)).any()


def test_boundary_term_grows_with_progress():
    logits, target = batch(ORGANS)
    loss = build_loss(section("boundary", boundary_weight=2.0), ORGANS)
    start = loss(logits, target)
    assert start == pytest.approx(build_loss(section("dice_ce"), ORGANS)(logits, target).item())
    loss.progress.fill_(0.5)
    half = loss(logits, target)
    loss.progress.fill_(1.0)
    assert (loss(logits, target) - start).item() == pytest.approx(2 * (half - start).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (ORGANS, section("ce", smooth=1.0), r"train\.loss\.smooth is not used by the loss 'ce'; drop it, or .*dice"),
        (ORGANS, section("auto", class_weights=[1.0]), "1 numbers for 3 outputs; give one each for background, liver"),
        (ORGANS, section("ce", class_weights=[0.0] * 3), "at least one positive"),
        (ORGANS, section("dice_bce"), "use dice_ce"),
        (REGIONS, section("ce"), "use dice_bce"),
        (REGIONS, section("auto", dice_background=True), "no background output"),
        (ORGANS, section("auto", dice_weight=0.0, ce_weight=0.0), "both 0"),
    ],
)
def test_contradictions_are_refused_in_one_line(labels, given, message):
    with pytest.raises(RecipeError, match=message) as caught:
        build_loss(given, labels)
    assert "\n" not in str(caught.value)
