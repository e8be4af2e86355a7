"""U-RWKV and the shift of tokens that it shares with RWKV-UNet: what reaches which place, and what is refused."""

import pytest
import torch
from torch import Tensor

from unetkit.blocks.layers import Layers
from unetkit.blocks.rwkv import SpatialMix, quad_shift
from unetkit.errors import ModelError, ShapeError
from unetkit.models import u_rwkv as module
from unetkit.models.u_rwkv import BothWays, ChainStage, QuadScan, inward
from unetkit.registry import create_model

WIDTHS = (8, 12, 16, 32)


def numbered(*size: int) -> Tensor:
    """A map [1, 1, *size] of its places' numbers, from 1."""
    return torch.arange(1.0, torch.Size(size).numel() + 1).view(1, 1, *size)


def build(size: tuple[int, ...] = (16, 16), **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"widths": WIDTHS, **options}
    return create_model("u_rwkv", in_channels=1, num_classes=2, patch_size=size, **options).eval()


def test_quad_shift_moves_a_quarter_of_the_channels_each_way() -> None:
    moved = quad_shift(numbered(2, 3).repeat(1, 4, 1, 1))[0]
    assert moved.tolist() == [
        [[0, 1, 2], [0, 4, 5]],  # right
        [[2, 3, 0], [5, 6, 0]],  # left
        [[0, 0, 0], [1, 2, 3]],  # down
        [[4, 5, 6], [0, 0, 0]],  # up
    ]


def test_quad_shift_of_a_volume_has_six_ways_and_leaves_no_channel_out() -> None:
    moved = quad_shift(numbered(2, 2, 2).repeat(1, 6, 1, 1, 1))[0]
    kept = [sorted(part[part > 0].tolist()) for part in moved]
    assert kept == [[1, 3, 5, 7], [2, 4, 6, 8], [1, 2, 5, 6], [3, 4, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]]
    # 7 channels: the groups share what does not divide, none stays where it was
    assert (quad_shift(torch.ones(1, 7, 2, 2, 2)).flatten(2).sum(-1) == 4).all()


def test_quad_shift_has_the_transpose_as_its_gradient() -> None:
    x, y = (torch.randn(2, 9, 4, 5, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    (grad,) = torch.autograd.grad(quad_shift(x), x, y)
    assert torch.allclose((quad_shift(x.detach()) * y).sum(), (x.detach() * grad).sum())


def test_inward_reads_columns_from_both_ends() -> None:
    # upper half down, lower half up, column after column
    assert inward(numbered(4, 2))[0, 0].tolist() == [1, 3, 7, 5, 2, 4, 8, 6]
    assert inward(numbered(3, 1))[0, 0].tolist() == [1, 3, 2]


def record_orders(monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...]) -> list[list[float]]:
    """The numbers of the places in the orders in which the spatial mix of a QuadScan sees them."""
    seen = []

    def spy(mix: SpatialMix, x: Tensor, shifted: Tensor) -> Tensor:
        seen.append(x[0, :, 0].tolist())
        return torch.zeros_like(x)

    layer = QuadScan(8, as_published=False).double()
    monkeypatch.setattr(SpatialMix, "forward", spy)
    layer.norm1 = torch.nn.Identity()
    layer(numbered(*size).double().repeat(1, 8, *[1] * len(size)))
    return seen


def test_four_orders_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    # rows, rows from their ends, columns, columns from their ends
    assert record_orders(monkeypatch, (2, 3)) == [
        [1, 2, 3, 4, 5, 6],
        [3, 2, 1, 6, 5, 4],
        [1, 4, 2, 5, 3, 6],
        [4, 1, 5, 2, 6, 3],
    ]


def test_six_orders_of_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = record_orders(monkeypatch, (2, 3, 2))
    assert len(orders) == 6
    assert all(sorted(order) == list(range(1, 13)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_tokens_come_back_to_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    # with nothing mixed in, what is read in four orders and put back is the map
    layer = QuadScan(8, as_published=False).double()
    with torch.no_grad():
        layer.scale1.zero_()
        layer.scale2.zero_()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    assert torch.allclose(layer(x), x)
    flat = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    assert torch.allclose(layer(flat), flat)


def test_both_ways_turns_back_what_it_turned_unless_as_published() -> None:
    x, layer = torch.randn(1, 2, 3, 3), torch.nn.Identity()
    assert torch.equal(BothWays(layer, as_published=False)(x), 2 * x)
    assert torch.equal(BothWays(layer, as_published=True)(x), x + x.mT)


def test_turning_the_image_turns_the_answer_of_the_mixing_layers() -> None:
    torch.manual_seed(0)
    mix = BothWays(QuadScan(8, as_published=False), as_published=False).double()
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64)
    assert torch.allclose(mix(x.mT), mix(x).mT)


def test_a_chain_joins_all_of_its_maps() -> None:
    stage = ChainStage(Layers(2, norm="batch", act="gelu"), 32, 32).eval()
    assert stage.residual
    assert (len(stage.chain), stage.project[0].in_channels) == (module.REDUCTION - 1, 16)
    assert stage(torch.randn(1, 32, 4, 4)).shape == (1, 32, 4, 4)


def test_size_of_the_image_is_free_unless_as_published() -> None:
    assert build()(torch.randn(1, 1, 24, 32)).shape == (1, 2, 24, 32)
    model = build(as_published=True)
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(ShapeError, match=r"as_published=true images must be square; set it to false"):
        model(torch.randn(1, 1, 32, 16))
    with pytest.raises(ShapeError, match="must be square"):
        build((32, 16), as_published=True)


def test_as_published_carries_parameters_that_nothing_uses() -> None:
    x = torch.randn(1, 1, 16, 16)
    model = build(as_published=True)
    model(x).sum().backward()
    idle = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert idle == {"unused"}
    assert not hasattr(build(), "unused")


@pytest.mark.parametrize("widths", [(8, 12, 20), (16,), (0, 16)])
def test_refuses_widths_that_do_not_divide(widths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="give 2 levels or more, the last a multiple of 16"):
        build(widths=widths)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_no_nan_under_autocast(half: torch.dtype) -> None:
    model = build().train()
    with torch.autocast("cpu", half):
        y = model(30 * torch.randn(2, 1, 16, 16))
    y.float().square().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
