"""TransDAE: skips that see all scales, kernels that reach 21 voxels, options that contradict each other."""

from typing import Any

import pytest
import torch

from unetkit.blocks.layers import Layers
from unetkit.errors import ModelError
from unetkit.models.transdae import LargeKernel, ScaleExchange
from unetkit.registry import create_model


@pytest.mark.parametrize("dims", [2, 3])
def test_a_large_kernel_sees_11_voxels_to_either_side(dims: int) -> None:
    side = 31
    image = torch.zeros(1, 2, *[side] * dims, requires_grad=True)
    kernel = LargeKernel(Layers(dims), 2)
    kernel(image)[(0, 0, *[side // 2] * dims)].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0).nonzero()
    # 2 of the 5 wide convolution and 9 of the one 7 wide at dilation 3
    assert (seen.min().item(), seen.max().item()) == (side // 2 - 11, side // 2 + 11)


@pytest.mark.parametrize("changed", [0, 1, 2])
@torch.no_grad()
def test_every_skip_sees_every_scale(changed: int) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, n, n, width) for n, width in ((8, 4), (4, 6), (2, 8))]
    exchange = ScaleExchange(Layers(2), (4, 6, 8))
    before = exchange(maps)
    assert [x.shape for x in before] == [x.shape for x in maps]
    maps[changed] = maps[changed] + 1
    assert not any(torch.equal(a, b) for a, b in zip(before, exchange(maps), strict=True))


@torch.no_grad()
def test_without_what_is_exchanged_skips_are_those_of_the_encoder() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, 4, 4), torch.randn(1, 2, 2, 6)]
    exchange = ScaleExchange(Layers(2), (4, 6))
    for mix in exchange.mix:
        torch.nn.init.zeros_(mix.weight)
        torch.nn.init.zeros_(mix.bias)
    assert all(torch.equal(a, b) for a, b in zip(exchange(maps), maps, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": (2, 5)}, r"heads \(2, 5\) and reductions \(4, 2, 1\) need one entry per level, 2 at least"),
        ({"heads": (3, 5, 8)}, "128 channels at level 0 do not divide into 3 heads"),
        ({"widths": (127, 320, 512), "heads": (1, 1, 1)}, r"widths \(127, 320, 512\) must be even"),
        ({"width": (8, 16, 32)}, "did you mean 'widths'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("transdae", patch_size=(32, 32), **options)
    assert "\n" not in str(refused.value)
