"""Patches and batches against plans of nnU-Net's plain 3D configuration, and sizes that models can take."""

from dataclasses import replace
from math import prod

import pytest

from unetkit.plan.budget import LARGEST_BATCH, Setting, choose_batch, choose_patch, elements, legal
from unetkit.registry import ModelInfo
from unetkit.topology import pool_topology

ANY = ModelInfo("any", "cnn", 2020, "", (2, 3), name="any")
FOLLOWS = replace(ANY, options={"strides": None})

# spacing in mm, median size, training cases, entries of the label list -> patch, batch, estimated elements
KNOWN = {
    "brain tumour": ((1, 1, 1), (138, 169, 138), 484, 4, (128, 128, 128), 2, 454_893_568),
    "heart": ((1.37, 1.25, 1.25), (115, 320, 232), 20, 2, (80, 192, 160), 2, 528_211_200),
    "liver": ((1, 0.767578125, 0.767578125), (482, 512, 512), 131, 3, (128, 128, 128), 2, 452_796_416),
    "hippocampus": ((1, 1, 1), (36, 50, 35), 260, 3, (40, 56, 40), 9, 19_174_400),
    "prostate": ((3.6, 0.625, 0.625), (20, 320, 319), 32, 3, (20, 320, 256), 2, 483_315_200),
    "acdc": ((5, 1.5625, 1.5625), (18, 237, 208), 200, 4, (20, 256, 224), 4, 310_481_920),
}
KNOWN_2D = {"brain tumour": (192, 160), "heart": (320, 256), "liver": (512, 512), "hippocampus": (56, 40)}


@pytest.mark.parametrize("name", KNOWN)
def test_known_3d_plans(name):
    spacing, shape, cases, entries, patch, batch, count = KNOWN[name]
    setting = Setting(shape, spacing, entries, 8.0, FOLLOWS)
    assert choose_patch(setting) == patch
    assert choose_batch(patch, setting, prod(shape) * cases) == batch
    assert elements(patch, pool_topology(patch, spacing)[0], entries) == count


@pytest.mark.parametrize("name", KNOWN_2D)
def test_known_2d_patches(name):
    spacing, shape, cases, entries, *_ = KNOWN[name]
    setting = Setting(shape[1:], spacing[1:], entries, 8.0, FOLLOWS)
    assert choose_patch(setting) == KNOWN_2D[name]
    assert choose_batch(KNOWN_2D[name], setting, prod(shape) * cases) <= LARGEST_BATCH


@pytest.mark.parametrize(
    "info",
    [
        replace(ANY, multiple=32),
        replace(ANY, multiple=32, square=True),
        replace(ANY, multiple=224, square=True, fixed=True),
        replace(ANY, min_size=96),
    ],
    ids=["multiple", "square", "fixed", "least"],
)
@pytest.mark.parametrize(("shape", "spacing"), [((20, 320, 320), (3.6, 0.6, 0.6)), ((40, 500, 300), (1, 1, 1))])
def test_patches_are_what_the_model_takes(info, shape, spacing):
    for memory in (1.0, 8.0, 80.0):
        patch = choose_patch(Setting(shape, spacing, 3, memory, info))
        assert patch == info.legal_size(patch)


def test_networks_with_strides_of_their_own_are_padded_less():
    setting = Setting((352, 352), (1.0, 1.0), 2, 8.0, ANY)
    assert choose_patch(setting) == (352, 352)
    assert choose_patch(replace(setting, info=FOLLOWS)) == (384, 384)


def test_more_memory_never_means_a_smaller_patch():
    patches = [choose_patch(Setting((300, 512, 512), (1.5, 0.8, 0.8), 3, gb, ANY)) for gb in (2, 4, 8, 16, 32)]
    assert [prod(p) for p in patches] == sorted(prod(p) for p in patches)


def test_legal_sizes_suit_their_own_topology():
    for size in ((33, 47, 20), (100, 100, 12), (7, 9, 5)):
        setting = Setting(size, (1, 1, 1), 2, 8.0, FOLLOWS)
        fitting = legal(size, setting)
        assert all(a >= b for a, b in zip(fitting, size, strict=True))
        assert legal(fitting, setting) == fitting
