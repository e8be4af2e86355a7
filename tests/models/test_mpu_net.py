"""MPU-Net: attention that starts from nothing, several reaches, the one size it takes, options it refuses."""

from typing import Any

import pytest
import torch

from unetkit.blocks.layers import Layers
from unetkit.errors import ModelError, ShapeError
from unetkit.models.mpu_net import MapAttention, ReachBlock
from unetkit.registry import create_model


@pytest.mark.parametrize(("dims", "stride"), [(2, 1), (2, 4), (3, 2)])
@torch.no_grad()
def test_attention_adds_an_average_of_values(dims: int, stride: int) -> None:
    torch.manual_seed(0)
    attention = MapAttention(Layers(dims), 8, stride)
    skip, asking = (torch.randn(2, 8, *[8] * dims) for _ in range(2))
    assert torch.equal(attention(skip, asking, skip), skip)  # its weight starts at 0
    attention.scale.fill_(0.5)
    # where every voxel holds the same, so does every average, whoever asks
    same = torch.randn(2, 8, *[1] * dims).expand_as(skip)
    torch.testing.assert_close(attention(same, asking, skip), same + 0.5 * attention.value(same))


def test_a_reach_block_sees_as_far_as_its_largest_dilation() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, 31, 31, requires_grad=True)
    block = ReachBlock(Layers(2), 2, 8).eval()
    block(image)[0, :, 15, 15].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0).nonzero()
    # 4 of the convolution at dilation 4, 1 of each of the two after it
    assert (seen.min().item(), seen.max().item()) == (15 - 6, 15 + 6)


@torch.no_grad()
def test_the_deepest_map_knows_places() -> None:
    """A constant image gives the same everywhere away from the borders, but for the learned positions."""
    model = create_model("mpu_net", patch_size=(32, 32), widths=(4, 8)).eval()
    image = torch.ones(1, 1, 32, 32)
    assert model.encoder(image)[-1][..., 4:-4, 4:-4].std(dim=(2, 3)).min() > 0.01
    model.encoder.positions.zero_()
    assert model.encoder(image)[-1][..., 4:-4, 4:-4].std(dim=(2, 3)).max() < 1e-5
    assert model.encoder(image, 1)[0].shape == (1, 4, 32, 32)


def test_positions_belong_to_one_size() -> None:
    model = create_model("mpu_net", patch_size=(32, 32), widths=(4, 8))
    with pytest.raises(ShapeError, match=r"input size \(48, 48\), but it was built for \(32, 32\) only"):
        model(torch.zeros(1, 1, 48, 48))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"widths": (8,)}, ModelError, r"widths \(8,\): attention needs a level below the first"),
        ({"patch_size": (40, 40)}, ShapeError, r"multiples of 16; the next legal size is \(48, 48\)"),
        ({"width": (8, 16)}, ModelError, "did you mean 'widths'"),
    ],
)
def test_what_it_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        create_model("mpu_net", **{"patch_size": (32, 32), **options})
    assert "\n" not in str(refused.value)
