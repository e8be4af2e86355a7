"""Patches: nothing is lost or moved on the way down and up."""

import pytest
import torch

from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchEmbed, PatchExpand, PatchMerging, expand_patches, merge_patches


def test_merging_runs_down_the_first_axis_first() -> None:
    image = torch.tensor([[0, 1], [2, 3]]).reshape(1, 2, 2, 1)
    assert merge_patches(image, 2).flatten().tolist() == [0, 2, 1, 3]


def test_expanding_runs_along_the_last_axis_first() -> None:
    channels = torch.arange(4).reshape(1, 1, 1, 4)
    assert expand_patches(channels, 2)[0, :, :, 0].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("size", "factor"), [((4, 6), 2), ((3, 3), 3), ((2, 4, 6), 2)])
def test_expanding_undoes_merging_once_channels_are_in_its_order(size: tuple[int, ...], factor: int) -> None:
    dims, x = len(size), torch.randn(2, *size, 3)
    merged = merge_patches(x, factor)
    assert merged.shape == (2, *(n // factor for n in size), 3 * factor**dims)
    order = torch.arange(factor**dims).reshape([factor] * dims).permute(*reversed(range(dims))).flatten()
    reordered = merged.unflatten(-1, (factor**dims, 3))[..., order, :].flatten(-2)
    assert torch.equal(expand_patches(reordered, factor), x)


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_down_and_up(dims: int) -> None:
    x = torch.randn(2, 3, *[8] * dims)
    tokens = PatchEmbed(Layers(dims), 3, 6, 4)(x)
    assert tokens.shape == (2, *[2] * dims, 6)
    merged = PatchMerging(dims, 6)(tokens)
    assert merged.shape == (2, *[1] * dims, 12)
    assert PatchExpand(dims, 12, 6, 2)(merged).shape == tokens.shape
    assert PatchExpand(dims, 6, 5, 4)(tokens).shape == (2, *[8] * dims, 5)


def test_embedding_sees_its_own_patch_alone() -> None:
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    PatchEmbed(Layers(2), 1, 6, 4)(x)[0, 1, 0, 0].backward()
    assert x.grad is not None
    seen = x.grad[0, 0] != 0
    assert seen[4:, :4].all()
    assert seen.sum() == 16
