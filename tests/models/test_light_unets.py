"""What is special of UNeXt, CMUNeXt, MALUNet, EGE-UNet and DRU-Net."""

import pytest
import torch

from unetkit.blocks.rearrange import shift
from unetkit.errors import ModelError
from unetkit.registry import create_model


@pytest.mark.parametrize("axis", [1, 2])
def test_five_groups_of_channels_move_by_two_to_two(axis: int) -> None:
    """Seven channels make groups of 2, 2, 2 and 1; what moves out is lost, zeros come in."""
    x = torch.rand(1, 6, 6, 7)
    moved = shift(x, axis).movedim(axis, 1)
    x = x.movedim(axis, 1)
    assert torch.equal(moved[:, :-2, :, :2], x[:, 2:, :, :2])
    assert torch.equal(moved[:, 1:, :, 6], x[:, :-1, :, 6])
    assert not moved[:, -2:, :, :2].any()


def test_one_class_has_the_published_masks() -> None:
    ours, published = (
        create_model("egeunet", num_classes=1, patch_size=(32, 32), deep_supervision=True, as_published=flag)
        for flag in (False, True)
    )
    ours.load_state_dict(published.state_dict())
    x = torch.rand(1, 1, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(ours.eval()(x), published.eval()(x), strict=True))


def test_every_voxel_of_a_patch_has_one_decision() -> None:
    logits = create_model("drunet_patches", patch_size=(32, 48)).eval()(torch.rand(1, 1, 32, 48))
    assert torch.equal(logits, logits[..., :1, :1].expand_as(logits))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unext", {"widths": [8, 16]}, "two token levels lie below"),
        ("cmunext", {"depths": [1, 1]}, r"depths \(1, 1\) and kernels \(3, 3, 7, 7, 7\) need one entry per level"),
        ("cmunext", {"kernels": [3, 3, 7, 8, 7]}, "8 is even"),
        ("malunet", {"widths": [8, 16, 24]}, "more than 3, each a multiple of 4"),
        ("egeunet", {"widths": [8, 16, 24, 30]}, "more than 3, each a multiple of 4"),
        ("egeunet", {"as_published": True, "deep_supervision": True}, "cannot be compared with 2 classes"),
        ("drunet", {"maps": 3}, "maps=3: of 3 input channels"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model(name, in_channels=3, patch_size=(64, 64), **options)
