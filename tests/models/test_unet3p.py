"""What is special of UNet 3+: the verdict on empty images, its gradient, maps of all scales."""

import pytest
import torch
from torch import Tensor, nn

from unetkit.errors import ModelError
from unetkit.models.unet3p import FullSizeHeads, Presence
from unetkit.registry import create_model

NARROW = (4, 6, 8)


def guided(**options: bool) -> nn.Module:
    return create_model("unet3p", patch_size=(16, 16), widths=NARROW, classification_guided=True, **options).eval()


def decide(model: nn.Module, present: bool) -> Presence:
    """Let the judge say the same of every image."""
    judge = next(m for m in model.modules() if isinstance(m, Presence))
    *_, conv = judge.scores
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([0.0, 1.0] if present else [1.0, 0.0]))
    return judge


def image() -> Tensor:
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_images_judged_empty_are_blank_in_every_output() -> None:
    model = guided(deep_supervision=True)
    decide(model, present=False)
    outputs = model(image())
    assert len(outputs) == len(NARROW)
    assert all(not x.any() for x in outputs)


def test_images_judged_full_are_as_without_a_judge() -> None:
    model, plain = guided(), create_model("unet3p", patch_size=(16, 16), widths=NARROW).eval()
    decide(model, present=True)
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert {key.split(".")[1] for key in missing.unexpected_keys} == {"presence"}
    torch.testing.assert_close(model(image()), plain(image()))


@pytest.mark.parametrize("as_published", [False, True])
def test_the_judge_learns_from_the_segmentation_but_as_published(as_published: bool) -> None:
    model = guided(as_published=as_published)
    judge = decide(model, present=True)
    model(image()).square().mean().backward()
    learns = [p.grad is not None and bool(p.grad.any()) for p in judge.parameters()]
    assert learns == [not as_published] * 2


def test_outputs_of_coarse_levels_are_enlarged_to_the_image() -> None:
    model = create_model("unet3p", patch_size=(16, 24), widths=NARROW, deep_supervision=True).eval()
    assert isinstance(model.heads, FullSizeHeads)
    assert [x.shape for x in model(torch.randn(1, 1, 16, 24))] == [(1, 2, 16, 24)] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8,)}, r"widths \[8\]: one level has no scales to join; give 2 or more"),
        ({"as_published": True}, "add classification_guided=true or drop it"),
        ({"branch_widht": 8}, "did you mean 'branch_width'"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create_model("unet3p", patch_size=(64, 64), **options)
    assert "\n" not in str(caught.value)
