"""SAUNA's losses against its code, and where they agree with plain ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unetkit.engine.losses import build_loss
from unetkit.engine.losses.comparison import Comparison
from unetkit.engine.losses.signed import FocalL1, JaccardMetric
from unetkit.errors import RecipeError
from unetkit.recipe.training import LossSection
from unetkit.types import IGNORE, Labels

VESSELS = Labels(("vessel",), ((1,),), regions=True)
EXCLUSIVE = Labels(("vessel",), ((1,),))
NAMES = ("focal_l1", "jaccard_metric", "focal_l1_jaccard")


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    """Logits and soft targets [2, 1, 8, 8]."""
    draw = np.random.RandomState(7)
    logits = torch.from_numpy(draw.standard_normal((2, 1, 8, 8)))
    return logits, torch.from_numpy(np.clip(draw.standard_normal((2, 1, 8, 8)), -1, 1))


def compared(logits: Tensor, soft: Tensor) -> Comparison:
    return Comparison(logits, (soft > 0).to(torch.uint8), True, soft=soft)


def coded(soft: Tensor) -> Tensor:
    """Labels and codes of soft targets, as the loader gives them."""
    codes = (soft * 127).round() + 127
    return torch.cat([soft > 0, codes], dim=1).to(torch.uint8)


def test_values_are_the_references(drawn: tuple[Tensor, Tensor]) -> None:
    # Oulu-IMEDS/SAUNA at dd46324
    seen = compared(*drawn)
    assert FocalL1(2.0, 1.0)(seen).item() == pytest.approx(0.8106430920603169, abs=1e-12)
    assert JaccardMetric()(seen).item() == pytest.approx(0.8146693914920486, abs=1e-9)


def test_the_sum_reads_codes(drawn: tuple[Tensor, Tensor]) -> None:
    logits, soft = drawn
    loss = build_loss(LossSection(name="focal_l1_jaccard", targets="sauna"), VESSELS)
    assert loss(logits, coded(soft)).item() == pytest.approx(1.6253124835523656, abs=2 / 127)
    doubled = build_loss(LossSection(name="focal_l1_jaccard", targets="sauna", jaccard_weight=2.0), VESSELS)
    extra = doubled(logits, coded(soft)) - loss(logits, coded(soft))
    assert extra.item() == pytest.approx(0.8146693914920486, abs=1 / 127)


@pytest.mark.parametrize("module", [FocalL1(2.0, 1.0), FocalL1(1.0, 0.5, 3.0), JaccardMetric()])
def test_only_the_target_itself_is_free(module: torch.nn.Module, drawn: tuple[Tensor, Tensor]) -> None:
    soft = drawn[1] * 0.99
    logits = torch.atanh(soft).requires_grad_(True)
    perfect = module(compared(logits, soft))
    assert perfect.item() == pytest.approx(0, abs=1e-6)
    perfect.backward()
    assert torch.isfinite(logits.grad).all()
    assert module(compared(1.1 * logits, soft)) > 1e-4
    assert module(compared(0.9 * logits, soft)) > 1e-4


@pytest.mark.parametrize("labels", [VESSELS, EXCLUSIVE])
def test_with_hard_labels_it_is_the_jaccard_of_both_sides(labels: Labels) -> None:
    draw = torch.Generator().manual_seed(0)
    truth, guess = torch.randint(0, 2, (2, 2, 1, 6, 8), generator=draw)
    logits = (2.0 * guess - 1) * 100
    if not labels.regions:
        logits = torch.cat([-logits, logits], dim=1)
    right, wrong = (truth == guess).sum(), (truth != guess).sum()
    # TP + TN, over TP + FP + FN and TN + FP + FN
    expected = 1 - right / (right + 2 * wrong)
    loss = build_loss(LossSection(name="jaccard_metric"), labels)
    assert loss(logits, truth.to(torch.uint8)).item() == pytest.approx(expected.item(), abs=1e-6)


def test_positive_voxels_may_weigh_more(drawn: tuple[Tensor, Tensor]) -> None:
    logits, soft = drawn
    both, more = (FocalL1(2.0, 1.0, w)(compared(logits, soft)) for w in (1.0, 3.0))
    positive = FocalL1(2.0, 1.0)(compared(logits[soft > 0].view(1, 1, -1, 1), soft[soft > 0].view(1, 1, -1, 1)))
    share = (soft > 0).double().mean()
    assert (more - both).item() == pytest.approx((2 * share * positive).item())


@pytest.mark.parametrize("labels", [VESSELS, EXCLUSIVE])
@pytest.mark.parametrize("name", NAMES)
def test_ignored_voxels_change_nothing_and_gradients_are_right(name: str, labels: Labels) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(2, labels.num_outputs, 4, 5, generator=draw, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 1, 4, 5), generator=draw).to(torch.uint8)
    target[:, :, 0] = IGNORE
    loss = build_loss(LossSection(name=name), labels)
    other = torch.where(target == IGNORE, -5 * logits, logits)
    assert loss(other, target).item() == pytest.approx(loss(logits, target).item(), abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_(True), eps=1e-6, atol=1e-5)
    for fill in (0, 1, IGNORE):
        extreme = (100 * logits.detach().float()).requires_grad_(True)
        value = loss(extreme, torch.full_like(target, fill))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(extreme.grad).all()


def test_deep_supervision_halves_the_codes_too(drawn: tuple[Tensor, Tensor]) -> None:
    logits, soft = drawn
    loss = build_loss(LossSection(name="jaccard_metric", targets="sauna"), VESSELS)
    half = logits[..., ::2, ::2]
    # the voxel nearest to the centre of two is the second
    expected = (2 * loss(logits, coded(soft)) + loss(half, coded(soft[..., 1::2, 1::2]))) / 3
    found = loss((logits, half, logits[..., ::4, ::4]), coded(soft))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (EXCLUSIVE, {"name": "focal_l1", "targets": "sauna"}, "soft labels are for regions"),
        (VESSELS, {"name": "dice", "targets": "sauna"}, r"not used by the loss 'dice'; drop it, or .*focal_l1"),
        (VESSELS, {"name": "jaccard_metric", "l1_alpha": 1.0}, r"choose one of focal_l1, focal_l1_jaccard"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(labels: Labels, given: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        build_loss(LossSection(**given), labels)
    assert "\n" not in str(caught.value)
