"""Orders in which a scan walks through an image or a volume, and the ways back.

An order says which axis runs fastest (the last of `axes`) and whether tokens are taken from the last to the first. Only
the steps that no view can express copy: a changed order of axes, and a reversal (which `selective_scan(reverse=True)`
saves altogether).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unetkit.errors import ShapeError


@dataclass(frozen=True)
class Order:
    """Axes of the map from the slowest to the fastest, and whether the walk is reversed."""

    axes: tuple[int, ...]
    reverse: bool = False


def cross_orders(dims: int) -> tuple[Order, ...]:
    """Return every axis once as the fastest, then the same walks reversed: 4 orders of an image, 6 of a volume.

    Of an image: row, column, reversed row, reversed column, as in VMamba (arXiv:2401.10166).
    """
    turns = [tuple((turn + axis) % dims for axis in range(dims)) for turn in range(dims)]
    return tuple(Order(axes, reverse) for reverse in (False, True) for axes in turns)


def to_tokens(x: Tensor, order: Order) -> Tensor:
    """Line up a map [B, C, *S] as tokens [B, C, L]."""
    tokens = x.permute(0, 1, *(2 + axis for axis in order.axes)).flatten(2)
    return tokens.flip(-1) if order.reverse else tokens


def to_map(tokens: Tensor, order: Order, size: Sequence[int]) -> Tensor:
    """Put tokens [B, C, L] back to a map [B, C, *size]; the inverse of `to_tokens`."""
    tokens = tokens.flip(-1) if order.reverse else tokens
    permuted = tokens.unflatten(2, [size[axis] for axis in order.axes])
    back = [order.axes.index(axis) for axis in range(len(size))]
    return permuted.permute(0, 1, *(2 + axis for axis in back))


def scan_map(x: Tensor, orders: Sequence[Order]) -> Tensor:
    """Line up a map [B, C, *S] in several orders: [B, orders, C, L]."""
    return torch.stack([to_tokens(x, order) for order in orders], 1)


def merge_map(tokens: Tensor, orders: Sequence[Order], size: Sequence[int]) -> Tensor:
    """Sum tokens [B, orders, C, L], each put back to its place: a map [B, C, *size]; the transpose of `scan_map`."""
    if tokens.shape[-1] != math.prod(size):
        raise ShapeError(f"{tokens.shape[-1]} tokens do not fill a map of size {tuple(size)}; give the size scanned")
    out = to_map(tokens[:, 0], orders[0], size)
    for k, order in enumerate(orders[1:], 1):
        out = out + to_map(tokens[:, k], order, size)
    return out


def cross_scan(x: Tensor) -> Tensor:
    """Line up a map [B, C, *S] in its `cross_orders`: [B, 4 or 6, C, L]."""
    return scan_map(x, cross_orders(x.ndim - 2))


def cross_merge(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Sum tokens [B, 4 or 6, C, L] of a cross scan to a map [B, C, *size]."""
    return merge_map(tokens, cross_orders(len(size)), size)


def bidirectional(tokens: Tensor) -> Tensor:
    """Return tokens [B, C, L] as they are and reversed: [B, 2, C, L]."""
    return torch.stack([tokens, tokens.flip(-1)], 1)


def bidirectional_merge(tokens: Tensor) -> Tensor:
    """Sum both directions [B, 2, C, L] to [B, C, L]."""
    return tokens[:, 0] + tokens[:, 1].flip(-1)


def interslice(tokens: Tensor, slices: int) -> Tensor:
    """Take tokens [B, C, L], which hold `slices` slices one after the other, place by place through all slices.

    As in SegMamba (arXiv:2401.13560): token t of slice s comes to place t * slices + s. Raises ShapeError if the slices
    are not of one size.
    """
    return _regroup(tokens, slices, (slices, -1))


def interslice_inverse(tokens: Tensor, slices: int) -> Tensor:
    """Put tokens [B, C, L] back, slice after slice; the inverse of `interslice`."""
    return _regroup(tokens, slices, (-1, slices))


def _regroup(tokens: Tensor, slices: int, size: tuple[int, int]) -> Tensor:
    if tokens.shape[-1] % slices:
        raise ShapeError(f"{tokens.shape[-1]} tokens are not {slices} slices of one size; give a divisor of them")
    return tokens.unflatten(-1, size).transpose(-1, -2).flatten(-2)
