"""Patches and batches within a memory target, at sizes that models can take."""

from dataclasses import replace
from math import prod

import pytest

from unetkit.errors import RecipeError
from unetkit.plan.budget import LARGEST_BATCH, Setting, choose_batch, choose_patch, descent, legal, most_samples
from unetkit.registry import ModelInfo

ANY = ModelInfo("any", "cnn", 2020, "", (2, 3), name="any")
FOLLOWS = replace(ANY, options={"strides": None})
LARGE = 1e12
"""Voxels of a data set that limits no batch."""


class Scales:
    """Weighs a step as most networks do: weights, and so much a voxel; remembers what it was asked."""

    def __init__(self, weights=1.0, a_million=0.5):
        self.weights, self.a_million = weights, a_million
        self.asked = set()

    def __call__(self, patch, batch):
        self.asked.add((patch, batch))
        return max(2 * self.weights, self.weights + self.a_million * prod(patch) * batch / 1e6)


def setting(weigh=None, info=FOLLOWS, gigabytes=8.0, shape=(300, 512, 512), spacing=(1.5, 0.8, 0.8)) -> Setting:
    return Setting(shape, spacing, 3, gigabytes, info, weigh)


@pytest.mark.parametrize("gigabytes", [3.0, 8.0, 24.0])
@pytest.mark.parametrize(
    "info", [ANY, FOLLOWS, replace(ANY, multiple=32, square=True)], ids=["any", "follows", "square"]
)
def test_the_largest_patch_of_the_descent_that_fits(info, gigabytes):
    scales = Scales()
    where = setting(scales, info, gigabytes)
    patch, room = choose_patch(where, LARGE)
    weighed, patches = len(scales.asked), descent(where)
    fitting = [p for p in patches if scales(p, 2) <= gigabytes]
    assert (patch, room) == (fitting[0], 2)
    assert weighed <= 6 < len(patches)
    assert [prod(p) for p in patches] == sorted((prod(p) for p in patches), reverse=True)


def test_in_2d_a_patch_leaves_room_for_twelve_unless_the_data_are_few():
    flat = setting(Scales(a_million=1.0), shape=(1500, 1500), spacing=(1.0, 1.0))
    patch, room = choose_patch(flat, LARGE)
    assert room == 12
    assert flat.fits(patch, 12)
    larger = descent(flat)[descent(flat).index(patch) - 1]
    assert not flat.fits(larger, 12)
    assert prod(choose_patch(flat, 20 * 3 * 1500**2)[0]) > prod(patch)


def test_a_batch_asked_for_has_its_patch():
    where = setting(Scales())
    assert prod(choose_patch(where, LARGE, batch=8)[0]) < prod(choose_patch(where, LARGE, batch=1)[0])


@pytest.mark.parametrize("gigabytes", [2.5, 4.0, 8.0, 11.0, 80.0])
def test_the_largest_batch_that_fits(gigabytes):
    where = setting(Scales(), gigabytes=gigabytes)
    batch = choose_batch((64, 96, 96), where, LARGE)
    assert where.fits((64, 96, 96), batch)
    assert batch == LARGEST_BATCH[3] or not where.fits((64, 96, 96), batch + 1)


def test_a_batch_sees_a_twentieth_of_the_data_at_most():
    assert most_samples((32, 32), 20 * 5 * 32 * 32) == 5
    assert most_samples((32, 32), 32 * 32) == 2
    assert (most_samples((32, 32), LARGE), most_samples((8, 8, 8), LARGE)) == (LARGEST_BATCH[2], LARGEST_BATCH[3])


def test_a_small_task_is_weighed_once():
    scales = Scales(weights=0.1)
    small = setting(scales, shape=(36, 50, 35), spacing=(1.0, 1.0, 1.0))
    patch, _ = choose_patch(small, 208 * 36 * 50 * 35)
    assert patch == (40, 56, 40)
    assert choose_batch(patch, small, 208 * 36 * 50 * 35) > 2
    assert len(scales.asked) == 1


def test_what_cannot_fit_is_said_with_its_numbers():
    heavy = setting(Scales(weights=20.0))
    with pytest.raises(RecipeError, match=r"any at its smallest patch \[.*\] with a batch of 2 takes .* 40 GB; raise"):
        choose_patch(heavy, LARGE)
    with pytest.raises(RecipeError, match=r"on patches of \[64, 64, 64\] with a batch of 2 .* a smaller data"):
        choose_batch((64, 64, 64), heavy, LARGE)


@pytest.mark.parametrize(
    "info",
    [
        replace(ANY, multiple=32),
        replace(ANY, multiple=32, square=True),
        replace(ANY, multiple=224, square=True, fixed=True),
        replace(ANY, min_size=96),
        replace(FOLLOWS, multiple=(4, 24, 8)),
    ],
    ids=["multiple", "square", "fixed", "least", "given strides"],
)
@pytest.mark.parametrize(("shape", "spacing"), [((20, 320, 320), (3.6, 0.6, 0.6)), ((40, 500, 300), (1, 1, 1))])
def test_patches_are_what_the_model_takes(info, shape, spacing):
    assert all(patch == info.legal_size(patch) for patch in descent(Setting(shape, spacing, 3, 8.0, info)))


def test_networks_with_strides_of_their_own_are_padded_less():
    where = setting(info=ANY, shape=(352, 352), spacing=(1.0, 1.0))
    assert descent(where)[0] == (352, 352)
    assert descent(replace(where, info=FOLLOWS))[0] == (384, 384)


def test_legal_sizes_suit_their_own_topology():
    for size in ((33, 47, 20), (100, 100, 12), (7, 9, 5)):
        where = setting(shape=size, spacing=(1, 1, 1))
        fitting = legal(size, where)
        assert all(a >= b for a, b in zip(fitting, size, strict=True))
        assert legal(fitting, where) == fitting
