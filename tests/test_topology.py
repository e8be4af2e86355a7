"""Strides and kernels against plans that nnU-Net published or is known to make."""

import pytest

from unetkit.topology import pool_topology


def spelled(rows):
    """Write ((1, 2, 2), ...) as "122 ..."."""
    return " ".join("".join(map(str, row)) for row in rows)


@pytest.mark.parametrize(
    ("patch", "spacing", "strides", "kernels"),
    [
        ((20, 320, 256), (3.6, 0.625, 0.625), "111 122 122 222 222 122 122", "133 133 333 333 333 333 333"),
        ((20, 256, 224), (5, 1.5625, 1.5625), "111 122 222 222 122 122", "133 333 333 333 333 333"),
        ((80, 192, 160), (1.37, 1.25, 1.25), "111 222 222 222 222 122", "333 333 333 333 333 333"),
        ((128, 128, 128), (1, 1, 1), "111 222 222 222 222 222", "333 333 333 333 333 333"),
        ((40, 56, 40), (1, 1, 1), "111 222 222 222", "333 333 333 333"),
    ],
    ids=["prostate", "acdc", "heart", "brain tumour", "hippocampus"],
)
def test_known_plans(patch, spacing, strides, kernels):
    got = pool_topology(patch, spacing)
    assert (spelled(got[0]), spelled(got[1])) == (strides, kernels)


@pytest.mark.parametrize(("patch", "pools"), [((128, 320, 256), (5, 6, 6)), ((192, 192, 192), (5, 5, 5))])
def test_divisor_is_two_to_the_number_of_pools(patch, pools):
    assert pool_topology(patch, (1.37, 1.25, 1.25))[2] == tuple(2**n for n in pools)


def test_2d_and_tiny_patches():
    assert pool_topology((512, 512), (0.8, 0.8))[2] == (128, 128)
    assert pool_topology((4, 4), (1, 1)) == (((1, 1),), ((3, 3),), (1, 1))


def test_a_single_short_axis_is_not_pooled_alone():
    assert pool_topology((11, 4), (1, 1))[2] == (1, 1)
    assert pool_topology((12, 4), (1, 1))[2] == (2, 1)


def test_min_edge_bounds_the_smallest_map():
    strides, _, divisor = pool_topology((64, 64), (1, 1), min_edge=8)
    assert divisor == (8, 8)
    assert len(strides) == 4
