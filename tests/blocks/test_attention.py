"""Attention blocks: windows come back as they were, and no token sees what the window, shift or padding hides."""

import math

import pytest
import torch

from unetkit.blocks.attention import (
    DropPath,
    Mlp,
    MultiHeadAttention,
    TransformerBlock,
    WindowAttention,
    relative_position_index,
    window_mask,
    window_partition,
    window_reverse,
)


def test_windows_hold_neighbours_in_order() -> None:
    image = torch.arange(16).reshape(1, 4, 4, 1)
    windows = window_partition(image, (2, 2))
    assert windows[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(("size", "window"), [((6, 4), (3, 2)), ((4, 4, 6), (2, 4, 3))])
def test_reverse_undoes_partition(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    x = torch.randn(2, *size, 5)
    windows = window_partition(x, window)
    assert windows.shape == (2, math.prod(size) // math.prod(window), math.prod(window), 5)
    assert torch.equal(window_reverse(windows, window, size), x)


def test_no_mask_without_shift_or_padding() -> None:
    assert window_mask((8, 8), (4, 4), (0, 0)) is None


def test_mask_separates_what_the_roll_brought_together() -> None:
    """Along one axis of 8, windows of 4, shift 2: the last window holds 6, 7 and, from the other border, 0, 1."""
    mask = window_mask((8,), (4,), (2,))
    assert mask is not None
    assert mask[0].all()
    pairs = torch.tensor([[True, True, False, False]] * 2 + [[False, False, True, True]] * 2)
    assert torch.equal(mask[1], pairs)


def test_mask_separates_padding() -> None:
    mask = window_mask((3, 4), (4, 4), (0, 0))
    assert mask is not None
    real = torch.arange(16) < 12
    assert torch.equal(mask[0], real[:, None] == real[None, :])


def test_relative_positions_are_numbered_as_in_swin() -> None:
    index = relative_position_index((2, 3))
    assert index.min() == 0
    assert index.max() == 3 * 5 - 1
    assert index[0].tolist() == [7, 6, 5, 2, 1, 0]  # (dy + 1) * 5 + dx + 2 for offsets from the first token
    assert (index + index.T == 14).all()


def reach(attention: WindowAttention, size: tuple[int, ...], at: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Return the places of the input that the output at `at` depends on."""
    x = torch.randn(1, *size, attention.qkv.in_features, requires_grad=True)
    attention(x)[(0, *at)].sum().backward()
    assert x.grad is not None
    return {tuple(place) for place in x.grad[0].abs().sum(-1).nonzero().tolist()}


def test_plain_windows_see_their_own_window_alone() -> None:
    attention = WindowAttention(4, 2, (4, 4))
    assert reach(attention, (8, 8), (0, 5)) == {(y, x) for y in range(4) for x in range(4, 8)}


def test_shifted_windows_cross_the_seam_but_not_the_border() -> None:
    attention = WindowAttention(4, 2, (4, 4), shifted=True)
    assert reach(attention, (8, 8), (4, 4)) == {(y, x) for y in range(2, 6) for x in range(2, 6)}
    assert reach(attention, (8, 8), (0, 0)) == {(y, x) for y in range(2) for x in range(2)}


def test_padding_is_never_seen_and_one_window_is_not_shifted() -> None:
    attention = WindowAttention(4, 2, (4, 4), shifted=True)
    assert reach(attention, (3, 6), (0, 0)) == {(y, x) for y in range(3) for x in range(2)}


@pytest.mark.parametrize("size", [(7, 9), (3, 5, 6)])
def test_any_size_keeps_its_shape(size: tuple[int, ...]) -> None:
    attention = WindowAttention(6, 3, (4,) * len(size), shifted=True)
    assert attention(torch.randn(2, *size, 6)).shape == (2, *size, 6)


def test_window_of_the_whole_map_equals_plain_attention() -> None:
    """With one window, zero bias and the same projections, both attentions are the same function."""
    windowed, plain = WindowAttention(8, 2, (3, 4)), MultiHeadAttention(8, 2)
    with torch.no_grad():
        windowed.relative_position_bias_table.zero_()
        weights, biases = windowed.qkv.weight.chunk(3), windowed.qkv.bias.chunk(3)
        for layer, weight, bias in zip((plain.query, plain.key, plain.value), weights, biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        plain.out.load_state_dict(windowed.proj.state_dict())
    x = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(windowed(x).flatten(1, 2), plain(x.flatten(1, 2)))


def test_attention_ignores_the_order_of_tokens() -> None:
    attention, x, order = MultiHeadAttention(8, 4), torch.randn(2, 10, 8), torch.randperm(10)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]))


def test_drop_path_drops_whole_samples_in_training_alone() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 3)
    assert torch.equal(drop.eval()(x), x)
    kept = drop.train()(x)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (kept == kept[:, :1]).all()
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_block_is_the_identity_when_both_branches_end_in_zero() -> None:
    block = TransformerBlock(8, MultiHeadAttention(8, 2), Mlp(8, 16))
    for last in (block.attn.out, block.mlp.fc2):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    x = torch.randn(2, 5, 8)
    assert torch.equal(block(x), x)
