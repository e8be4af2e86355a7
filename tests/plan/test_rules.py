"""Plans from fingerprints: rules, overrides, reasons, and what contradicts."""

import json
from dataclasses import replace

import pytest
from made_fingerprints import pictures, recipe, volumes

from unetkit.errors import ModelError, RecipeError, ShapeError
from unetkit.infer.network import build_network
from unetkit.plan import Plan, decide
from unetkit.registry import ModelInfo, model_info

FOLLOWS = ModelInfo("t", "cnn", 2020, "", (2, 3), name="plain", options=dict.fromkeys(("strides", "kernels", "widths")))
OTHER = ModelInfo("t", "cnn", 2020, "", (2, 3), multiple=16, name="other")
FLAT = ModelInfo("t", "transformer", 2020, "", (2,), multiple=32, square=True, name="flat")


def test_thick_slices_as_nnunet_plans_prostate():
    plan = decide(volumes(), recipe(), FOLLOWS)
    assert plan.transpose == (2, 1, 0)
    assert plan.spacing == (3.6, 0.625, 0.625)
    assert plan.patch_size == (20, 320, 256)
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert plan.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert plan.widths == (32, 64, 128, 256, 320, 320, 320)
    assert plan.batch_size == 2
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_every_choice_has_a_reason_with_its_numbers():
    plan = decide(volumes(), recipe(), FOLLOWS)
    fields = {"spacing", "transpose", "patch_size", "batch_size", "normalization", "strides", "kernels", "widths"}
    fields |= {"crop_nonzero", "mirror_axes", "resampling", "configuration", "batch_dice"}
    assert fields == set(plan.reasons)
    assert "3.6 mm" in plan.reasons["transpose"]
    assert "20 x 320 x 319" in plan.reasons["patch_size"]
    assert "-100 to 240 with foreground mean 90" in plan.reasons["normalization"]
    assert all("\n" not in reason for reason in plan.reasons.values())


def test_thin_slices_of_some_cases_are_kept():
    spacings = ((0.7, 0.7, 5.0),) * 26 + ((0.7, 0.7, 1.25),) * 4
    plan = decide(volumes(shape=(512, 512, 60), spacings=spacings), recipe(), OTHER)
    assert plan.spacing == pytest.approx((1.25, 0.7, 0.7))
    assert "1.25 mm instead of 5 mm" in plan.reasons["spacing"]


@pytest.mark.parametrize(
    ("spacing", "placed", "transpose"),
    [
        ((1.0, 1.0, 1.0), True, (2, 1, 0)),
        ((1.0, 3.0, 1.0), True, (1, 2, 0)),
        ((3.0, 1.0, 1.0), True, (0, 2, 1)),
        ((1.0, 1.0, 1.0), False, (0, 1, 2)),
    ],
)
def test_the_coarsest_axis_goes_first(spacing, placed, transpose):
    assert decide(volumes((64, 64, 64), spacing, placed=placed), recipe(), OTHER).transpose == transpose


def test_a_2d_model_sees_slices_that_are_not_resampled_across():
    plan = decide(volumes(), recipe(), FLAT)
    assert (plan.dims, plan.spacing, plan.transpose) == (2, (0.625, 0.625), (2, 1, 0))
    assert plan.patch_size == FLAT.legal_size(plan.patch_size)
    assert plan.mirror_axes == (0, 1)


def test_resized_slices():
    tree = {"data": {"resize": [224, 224], "clip": [-125, 275], "normalization": "clip_minmax"}}
    plan = decide(volumes(), recipe(**tree), FLAT)
    assert (plan.patch_size, plan.resize, plan.spacing, plan.crop_nonzero) == ((224, 224), (224, 224), None, False)
    assert (plan.normalization[0].low, plan.normalization[0].high) == (-125, 275)


def test_pictures_are_taken_as_they_are():
    plan = decide(pictures(), recipe(), OTHER)
    assert (plan.spacing, plan.transpose, plan.crop_nonzero) == (None, (), False)
    assert [rule.scheme for rule in plan.normalization] == ["rgb"] * 3
    assert all(n % 16 == 0 for n in plan.patch_size)
    assert plan.strides == plan.widths == ()


@pytest.mark.parametrize(
    ("changes", "tree", "scheme"),
    [
        ({"channels": ("ct",)}, {}, "ct"),
        ({"channels": ("T1",)}, {}, "zscore"),
        ({"channels": ("T1",), "cropped": ((200, 200, 20),) * 30}, {}, "zscore_mask"),
        ({"channels": ("T1",), "cropped": ((200, 200, 20),) * 30}, {"plan": {"crop_nonzero": False}}, "zscore"),
        ({"channels": ("T1",)}, {"data": {"clip": [0, 9]}}, "clip_minmax"),
        ({"channels": ("CT",)}, {"data": {"normalization": "percentile"}}, "percentile"),
        ({"channels": ("noNorm",)}, {}, "none"),
    ],
)
def test_normalization(changes, tree, scheme):
    assert decide(volumes(**changes), recipe(**tree), OTHER).normalization[0].scheme == scheme


def test_each_channel_may_have_a_normalization_of_its_own():
    seen = volumes(channels=("CT", "T1", "mask"), intensities=volumes().intensities * 3)
    tree = {"data": {"normalization": ["auto", "percentile", "none"]}}
    plan = decide(seen, recipe(**tree), OTHER)
    assert [rule.scheme for rule in plan.normalization] == ["ct", "percentile", "none"]
    tree = {"data": {"normalization": ["zscore", "none"]}}
    with pytest.raises(RecipeError, match=r"=\[zscore, none\] for 3 channel\(s\) \(CT, T1, mask\); give as many"):
        decide(seen, recipe(**tree), OTHER)


def test_overrides_win():
    tree = {
        "data": {"patch_size": [16, 64, 64]},
        "train": {"batch_size": 7},
        "plan": {"spacing": [4, 1, 1], "transpose": [0, 1, 2], "widths": [4, 8], "crop_nonzero": True},
        "model": {"name": "plain_unet", "strides": [1, 2]},
    }
    plan = decide(volumes(), recipe(**tree), FOLLOWS)
    assert (plan.patch_size, plan.batch_size, plan.spacing) == ((16, 64, 64), 7, (4.0, 1.0, 1.0))
    assert (plan.transpose, plan.crop_nonzero, plan.widths) == ((0, 1, 2), True, (4, 8))
    assert plan.strides == ((1, 1, 1), (2, 2, 2))
    native = decide(volumes(), recipe(plan={"spacing": "native"}), FOLLOWS)
    assert native.spacing is None


@pytest.mark.parametrize(
    ("augment", "axes"),
    [
        ({}, (0, 1, 2)),
        ({"mirror": False}, ()),
        ({"mirror": [1, 2]}, (1, 2)),
        ({"preset": "none"}, ()),
        ({"left_right": [["liver", "tumour"]]}, (0, 1)),
    ],
)
def test_prediction_mirrors_only_what_training_did(augment, axes):
    assert decide(volumes(), recipe(train={"augment": augment}), OTHER).mirror_axes == axes


@pytest.mark.parametrize(
    ("seen", "info", "tree", "error", "message"),
    [
        (pictures(), OTHER, {"data": {"patch_size": [16, 16, 16]}}, RecipeError, "is for volumes, but the images are"),
        (pictures(), OTHER, {"plan": {"spacing": [1, 1]}}, RecipeError, r"plan\.spacing .* for volumes, but"),
        (volumes(), FLAT, {"data": {"patch_size": [32, 32, 32]}}, ModelError, "flat works in 2D only, this needs 3D"),
        (volumes(), OTHER, {"plan": {"strides": [[1, 1, 1]]}}, RecipeError, r"plan\.strides is not used by other"),
        (volumes(), OTHER, {"data": {"patch_size": [15, 32, 32]}}, ShapeError, "multiples of 16; the next legal size"),
        (volumes(), FOLLOWS, {"data": {"patch_size": [20, 100, 100]}}, RecipeError, r"use \[20, 112, 112\], or give"),
        (volumes(), FOLLOWS, {"plan": {"strides": [[1, 1, 1]], "widths": [4, 8]}}, RecipeError, "contradict each"),
        (volumes(), FOLLOWS, {"plan": {"widths": [4]}, "model": {"widths": [4]}}, RecipeError, "are both given"),
        (volumes(), FOLLOWS, {"plan": {"strides": [[1, 1], [2, 2]]}}, RecipeError, "one number per axis"),
        (volumes(), OTHER, {"plan": {"transpose": [0, 0, 1]}}, RecipeError, "axes 0, 1 and 2 in the order"),
        (volumes(), FLAT, {"data": {"resize": [64, 64]}, "plan": {"spacing": "native"}}, RecipeError, "drop plan.spac"),
        (volumes(), FLAT, {"data": {"resize": [64, 64], "patch_size": [96, 96]}}, RecipeError, "larger than data.res"),
        (pictures(), OTHER, {"plan": {"image_order": 1}}, RecipeError, "has no effect, as nothing is resampled"),
        (
            pictures(),
            OTHER,
            {"infer": {"mirror": True}, "train": {"augment": {"mirror": False}}},
            RecipeError,
            "drop it",
        ),
        (volumes(channels=("noNorm",)), OTHER, {"data": {"clip": [0, 1]}}, RecipeError, "is used by no channel"),
    ],
)
def test_contradictions_are_refused(seen, info, tree, error, message):
    with pytest.raises(error, match=message) as caught:
        decide(seen, recipe(**tree), info)
    assert "\n" not in str(caught.value)


def test_a_strides_override_must_divide_the_patch():
    tree = {"plan": {"strides": [[1, 1, 1], [2, 4, 4]]}, "data": {"patch_size": [16, 50, 64]}}
    with pytest.raises(RecipeError, match=r"divide the patch by \[2, 4, 4\].*use \[16, 52, 64\]"):
        decide(volumes(), recipe(**tree), FOLLOWS)


@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet"])
def test_the_network_takes_the_sizes_of_the_plan(name):
    tree = {"model": {"name": name}, "plan": {"widths": [4, 8, 8]}, "data": {"patch_size": [8, 16, 16]}}
    seen = replace(volumes(), shapes=((40, 40, 9),) * 30)
    plan = decide(seen, recipe(**tree), model_info(name))
    assert len(plan.strides) == 3
    network = build_network(recipe(**tree), plan)
    assert sum(p.numel() for p in network.parameters()) < 50_000
