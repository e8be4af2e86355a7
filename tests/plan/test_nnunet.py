"""nnU-Net's planner against plans of nnU-Net 2.8.1: published data sets, and oddities found by planning random ones."""

from math import prod

import pytest

from unetkit.errors import RecipeError, ShapeError
from unetkit.plan import nnunet_plan
from unetkit.plan.nnunet import PRESETS, elements

# Medians before transposition: spacing in mm, size in voxels, cases that train, labels with the background.
DATA = {
    "brain": ((1, 1, 1), (138, 169, 138), 484, 4),
    "heart": ((1.37, 1.25, 1.25), (115, 320, 232), 20, 2),
    "liver": ((1, 0.767578125, 0.767578125), (482, 512, 512), 131, 3),
    "hippocampus": ((1, 1, 1), (36, 50, 35), 260, 3),
    "prostate": ((3.6, 0.625, 0.625), (20, 320, 319), 32, 3),
    "acdc": ((5, 1.5625, 1.5625), (18, 237, 208), 200, 4),
}
# Data, preset: 3D patch, batch, poolings per axis, 2D patch, batch, 3D estimate (None: not in the reference table).
GOLDEN = [
    ("brain", "plain", (128, 128, 128), 2, (5, 5, 5), (192, 160), 105, 454_893_568),
    ("brain", "M", (128, 128, 128), 2, (5, 5, 5), (192, 160), 107, 559_517_696),
    ("brain", "L", (160, 192, 160), 3, (5, 5, 5), (192, 160), 301, 1_311_369_600),
    ("brain", "XL", (160, 192, 160), 5, (5, 5, 5), (192, 160), 444, None),
    ("heart", "plain", (80, 192, 160), 2, (4, 5, 5), (320, 256), 40, 528_211_200),
    ("heart", "M", (80, 192, 160), 2, (4, 5, 5), (320, 256), 40, 651_081_600),
    ("heart", "L", (112, 288, 224), 2, (4, 5, 5), (320, 256), 113, 1_914_179_904),
    ("heart", "XL", (128, 320, 256), 3, (5, 6, 6), (320, 256), 166, None),
    ("liver", "plain", (128, 128, 128), 2, (5, 5, 5), (512, 512), 12, 452_796_416),
    ("liver", "M", (128, 128, 128), 2, (5, 5, 5), (512, 512), 12, 557_420_544),
    ("liver", "L", (192, 192, 192), 2, (5, 5, 5), (512, 512), 35, 1_881_294_336),
    ("liver", "XL", (224, 256, 224), 2, (5, 5, 5), (512, 512), 52, None),
    ("hippocampus", "plain", (40, 56, 40), 9, (3, 3, 3), (56, 40), 366, 19_174_400),
    ("hippocampus", "M", (40, 56, 40), 58, (3, 3, 3), (56, 40), 1618, 23_609_600),
    ("hippocampus", "L", (40, 56, 40), 178, (3, 3, 3), (56, 40), 4554, 23_609_600),
    ("prostate", "plain", (20, 320, 256), 2, (2, 6, 6), (320, 320), 32, 483_315_200),
    ("prostate", "M", (20, 256, 256), 2, (2, 6, 6), (320, 320), 32, 565_068_800),
    ("prostate", "L", (20, 320, 320), 5, (2, 6, 6), (320, 320), 90, 882_920_000),
    ("acdc", "plain", (20, 256, 224), 4, (2, 5, 5), (256, 224), 56, 310_481_920),
    ("acdc", "M", (20, 256, 224), 3, (2, 5, 5), (256, 224), 57, 427_445_760),
    ("acdc", "L", (20, 256, 224), 10, (2, 5, 5), (256, 224), 161, 427_445_760),
]
# Strides and kernels of the plain 3D network, a stage a word.
TOPOLOGY = {
    "prostate": ("111 122 122 222 222 122 122", "133 133 333 333 333 333 333"),
    "acdc": ("111 122 222 222 122 122", "133 333 333 333 333 333"),
    "heart": ("111 222 222 222 222 122", "333 333 333 333 333 333"),
}


@pytest.mark.parametrize(("data", "preset", "patch", "batch", "pools", "patch_2d", "batch_2d", "estimate"), GOLDEN)
def test_published_plans(data, preset, patch, batch, pools, patch_2d, batch_2d, estimate):
    plan = nnunet_plan(*DATA[data], preset=preset)
    full, flat = plan["3d_fullres"], plan["2d"]
    assert (full["patch_size"], full["batch_size"]) == (patch, batch)
    assert (flat["patch_size"], flat["batch_size"]) == (patch_2d, batch_2d)
    assert tuple(prod(axis) for axis in zip(*full["strides"], strict=True)) == tuple(2**n for n in pools)
    assert estimate in (None, full["estimate"])
    assert (full["spacing"], flat["spacing"]) == (DATA[data][0], DATA[data][0][1:])
    assert full["widths"] == (32, 64, 128, 256, *[320] * (len(full["strides"]) - 4))
    assert flat["batch_dice"]


@pytest.mark.parametrize("data", TOPOLOGY)
def test_published_strides_and_kernels(data):
    plan = nnunet_plan(*DATA[data])["3d_fullres"]
    words = (" ".join("".join(map(str, row)) for row in plan[key]) for key in ("strides", "kernels"))
    assert tuple(words) == TOPOLOGY[data]


@pytest.mark.parametrize(
    ("preset", "spacing", "patch"),
    [("plain", (2.500, 1.919, 1.919), (128, 128, 128)), ("L", (1.653, 1.269, 1.269), (192, 192, 192))],
)
def test_low_resolution_of_large_images(preset, spacing, patch):
    plan = nnunet_plan(*DATA["liver"], preset=preset)
    low = plan["3d_lowres"]
    assert (low["patch_size"], low["batch_size"]) == (patch, 2)
    assert low["spacing"] == pytest.approx(spacing, abs=5e-4)
    assert (low["batch_dice"], plan["3d_fullres"]["batch_dice"]) == (False, True)


@pytest.mark.parametrize("data", ["brain", "heart", "prostate"])
def test_no_low_resolution_where_a_patch_sees_enough(data):
    plan = nnunet_plan(*DATA[data])
    assert list(plan) == ["2d", "3d_fullres"]
    assert not plan["3d_fullres"]["batch_dice"]


@pytest.mark.parametrize(
    ("patch", "pools", "count"), [((128,) * 3, 5, 557_420_544), ((512, 512), 6, 129_531_904)], ids=["3D", "2D"]
)
def test_values_of_the_residual_encoder(patch, pools, count):
    dims = len(patch)
    assert elements(patch, ((1,) * dims, *[(2,) * dims] * pools), 3, PRESETS["M"]) == count


def test_the_coarsest_axis_goes_first():
    turned = nnunet_plan((0.625, 3.6, 0.625), (319, 20, 320), 32, 3)
    assert turned["3d_fullres"]["spacing"] == (3.6, 0.625, 0.625)
    assert turned["3d_fullres"]["patch_size"] == (20, 256, 320)


@pytest.mark.parametrize(
    ("spacing", "shape"), [((1.0, 1.0), (584, 565)), ((999.0, 1.0, 1.0), (1, 584, 565))], ids=["pictures", "one slice"]
)
def test_flat_images_have_2d_alone(spacing, shape):
    plan = nnunet_plan(spacing, shape, 20, 2)
    assert list(plan) == ["2d"]
    assert plan["2d"] == nnunet_plan(spacing[-2:], shape[-2:], 20, 2)["2d"]
    assert plan["2d"]["patch_size"] == (640, 640)


def test_half_voxels_of_an_even_number_of_cases_count_before_padding():
    assert nnunet_plan((1, 1, 1), (36.5, 50, 35), 20, 2)["3d_fullres"]["median_shape"] == (36.5, 50, 35)
    below, half = (nnunet_plan((1, 1, 1), (n, 33, 33), 20, 2)["3d_fullres"] for n in (7, 7.5))
    assert (below["patch_size"][0], half["patch_size"][0]) == (7, 8)


def test_memory_scales_the_budget():
    assert nnunet_plan(*DATA["liver"], memory_gb=8) == nnunet_plan(*DATA["liver"])
    patches = [nnunet_plan(*DATA["liver"], memory_gb=gb)["3d_fullres"]["patch_size"] for gb in (2, 8, 32, 128)]
    assert sorted(map(prod, patches)) == [prod(p) for p in patches]
    batches = [nnunet_plan(*DATA["acdc"], preset="L", memory_gb=gb)["3d_fullres"]["batch_size"] for gb in (24, 48)]
    assert batches == [10, 20]


def test_images_too_thin_for_a_lower_resolution_end():
    # nnU-Net's own search may go on for ever on such images
    assert "2d" in nnunet_plan((0.01, 1, 1), (2, 60000, 60000), 3, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spacing": (0, 1, 1)}, ShapeError, "give positive numbers in mm"),
        ({"spacing": (float("nan"), 1, 1)}, ShapeError, "give positive numbers in mm"),
        ({"spacing": (1, 1)}, ShapeError, "2 or 3 numbers each, one per axis"),
        ({"shape": (0, 20, 20)}, ShapeError, "at least 1 voxel per axis"),
        ({"num_cases": 0}, ShapeError, "at least 1 of each"),
        ({"preset": "S"}, RecipeError, "choose one of plain, M, L, XL"),
        ({"memory_gb": 0.0}, ShapeError, "memory_gb 0: give a positive number"),
    ],
)
def test_what_cannot_be_is_refused(changes, error, message):
    given = {"spacing": (1, 1, 1), "shape": (20, 20, 20), "num_cases": 3, "num_labels": 2}
    with pytest.raises(error, match=message) as caught:
        nnunet_plan(**given | changes)
    assert "\n" not in str(caught.value)
