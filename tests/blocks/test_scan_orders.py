"""Orders of a scan: where each token goes, the way back, and gradients."""

import pytest
import torch

from unetkit.blocks.scan import (
    Order,
    bidirectional,
    bidirectional_merge,
    cross_merge,
    cross_orders,
    cross_scan,
    interslice,
    interslice_inverse,
    merge_map,
    scan_map,
    to_map,
    to_tokens,
)
from unetkit.errors import ShapeError

# of a map of 2 x 3 pixels, numbered line by line
ROWS = [0, 1, 2, 3, 4, 5]
COLUMNS = [0, 3, 1, 4, 2, 5]


def numbered(*size: int) -> torch.Tensor:
    """A map [1, 1, *size] of its places' numbers."""
    return torch.arange(torch.Size(size).numel(), dtype=torch.float64).view(1, 1, *size)


def test_cross_scan_of_an_image() -> None:
    tokens = cross_scan(numbered(2, 3))[0, :, 0].tolist()
    assert tokens == [ROWS, COLUMNS, ROWS[::-1], COLUMNS[::-1]]


def test_cross_scan_of_a_volume_has_each_axis_as_the_fastest() -> None:
    tokens = cross_scan(numbered(2, 3, 4))[0, :, 0]
    volume = numbered(2, 3, 4)[0, 0]
    # steps from the first token to the second: along the last axis, the first, the middle one
    assert [int(line[1]) for line in tokens[:3]] == [1, 12, 4]
    assert torch.equal(tokens[1], volume.permute(1, 2, 0).flatten())
    assert torch.equal(tokens[2], volume.permute(2, 0, 1).flatten())
    assert torch.equal(tokens[3:], tokens[:3].flip(-1))


@pytest.mark.parametrize("size", [(4,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_order_has_its_way_back(size: tuple[int, ...], reverse: bool) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    for order in cross_orders(len(size)):
        turned = Order(order.axes, reverse)
        assert torch.equal(to_map(to_tokens(x, turned), turned, size), x)
    (grad,) = torch.autograd.grad(to_tokens(x, turned)[..., 0].sum(), x)
    assert grad.sum() == 2 * 3  # the first token is one place of each sample and channel


@pytest.mark.parametrize("size", [(2, 3), (2, 3, 4)])
def test_merge_is_the_transpose_of_scan(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    tokens = torch.randn_like(cross_scan(x))
    assert torch.allclose((cross_scan(x) * tokens).sum(), (x * cross_merge(tokens, size)).sum())
    assert torch.allclose(cross_merge(cross_scan(x), size), 2 * len(size) * x)
    assert torch.autograd.gradcheck(lambda t: cross_merge(t.square(), size), tokens[:1, :, :1].requires_grad_())
    assert torch.autograd.gradcheck(lambda t: cross_scan(t).square(), x[:1, :1].requires_grad_())


def test_orders_of_choice() -> None:
    orders = (Order((0, 1)), Order((1, 0), reverse=True))
    x = numbered(2, 3)
    assert scan_map(x, orders)[0, :, 0].tolist() == [ROWS, COLUMNS[::-1]]
    assert torch.equal(merge_map(scan_map(x, orders), orders, (2, 3)), 2 * x)


def test_row_order_is_a_view() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert to_tokens(x, Order((0, 1))).data_ptr() == x.data_ptr()
    assert to_map(x.flatten(2), Order((0, 1)), (3, 4)).data_ptr() == x.data_ptr()
    # the way back from columns copies nothing either
    tokens = to_tokens(x, Order((1, 0)))
    assert to_map(tokens, Order((1, 0)), (3, 4)).data_ptr() == tokens.data_ptr()


def test_bidirectional() -> None:
    tokens = torch.arange(4.0, requires_grad=True).view(1, 1, 4)
    both = bidirectional(tokens)
    assert both[0, :, 0].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert torch.equal(bidirectional_merge(both), 2 * tokens)


def test_interslice_goes_through_all_slices_at_each_place() -> None:
    tokens = numbered(6)
    # 2 slices of 3 places
    assert interslice(tokens, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(interslice_inverse(interslice(tokens, 2), 2), tokens)
    # slices of a volume are its first axis, which then runs fastest
    volume = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(interslice(volume.flatten(2), 4), to_tokens(volume, Order((1, 2, 0))))
    assert torch.autograd.gradcheck(lambda t: interslice(t, 3).square(), numbered(6).requires_grad_())


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="6 tokens are not 4 slices of one size; give a divisor"):
        interslice(numbered(6), 4)
    with pytest.raises(ShapeError, match=r"6 tokens do not fill a map of size \(2, 4\)"):
        cross_merge(torch.zeros(1, 4, 1, 6), (2, 4))
