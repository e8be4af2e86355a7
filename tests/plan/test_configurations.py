"""Configurations by name: which exist for which data and model, what sets them apart, and what is refused."""

from dataclasses import replace

import pytest
from made_fingerprints import pictures, recipe, volumes

from unetkit.errors import DataError, ModelError, RecipeError
from unetkit.plan import configurations_for, decide, nnunet_plan
from unetkit.registry import ModelInfo, model_info
from unetkit.types import Labels

PLAIN = ModelInfo("t", "cnn", 2020, "", (2, 3), name="plain", options=dict.fromkeys(("strides", "kernels", "widths")))
OTHER = ModelInfo("t", "cnn", 2020, "", (2, 3), multiple=32, name="other")
FLAT = replace(OTHER, dims=(2,), name="flat")
SOLID = replace(OTHER, dims=(3,), name="solid")
ALL = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
LARGE = {"shape": (512, 512, 482), "spacing": (0.767578125, 0.767578125, 1.0)}


def planned(planner, name=None, **plan):
    return recipe(plan={"planner": planner, "configuration": name, **plan})


@pytest.mark.parametrize("planner", ["unetkit", "nnunet"])
@pytest.mark.parametrize(
    ("seen", "info", "names"),
    [
        (volumes(**LARGE), PLAIN, ALL),
        (volumes(**LARGE), FLAT, ("2d",)),
        (volumes(**LARGE), SOLID, ALL[1:]),
        (volumes((50, 36, 35), (1, 1, 1)), PLAIN, ("2d", "3d_fullres")),
        (volumes((50, 36, 1), (1, 1, 5)), PLAIN, ("2d",)),
        (pictures(), PLAIN, ("2d",)),
    ],
    ids=["large", "2D model", "3D model", "small", "one slice", "pictures"],
)
def test_configurations_suit_data_and_model(planner, seen, info, names):
    assert configurations_for(seen, planned(planner, "all"), info) == names


def test_configurations_suit_the_recipe():
    seen = volumes(**LARGE)
    assert configurations_for(seen, recipe(data={"patch_size": [64, 64]}), PLAIN) == ("2d",)
    assert configurations_for(seen, recipe(data={"patch_size": [64, 64, 64]}), PLAIN) == ALL[1:]
    assert configurations_for(seen, planned("unetkit", spacing="native"), PLAIN) == ("2d", "3d_fullres")
    with pytest.raises(ModelError, match="solid works in 3D only, this needs 2D"):
        configurations_for(pictures(), recipe(), SOLID)


@pytest.mark.parametrize("planner", ["unetkit", "nnunet"])
def test_what_sets_the_configurations_of_large_images_apart(planner):
    seen = volumes(**LARGE)
    flat, full, low, cascade = (decide(seen, planned(planner, name), PLAIN) for name in ALL)
    assert [plan.configuration for plan in (flat, full, low, cascade)] == list(ALL)
    # by how little of an image one sample sees
    assert [plan.batch_dice for plan in (flat, full, low, cascade)] == [True, True, False, True]
    assert [plan.previous for plan in (flat, full, low, cascade)] == [False, False, False, True]
    assert flat.spacing == full.spacing[1:]
    assert all(a > b for a, b in zip(low.spacing, full.spacing, strict=True))
    assert replace(cascade, configuration="", previous=False, reasons={}) == replace(full, configuration="", reasons={})
    assert cascade.task.in_channels == 1 + len(seen.labels.classes)
    assert "a lower resolution: " in low.reasons["configuration"]
    assert "coarser than the full resolution" in low.reasons["spacing"]


def test_without_a_name_it_is_the_widest():
    assert decide(volumes(), recipe(), PLAIN).configuration == "3d_fullres"
    assert decide(volumes(), recipe(), FLAT).configuration == "2d"
    small = decide(volumes((50, 36, 35), (1, 1, 1)), recipe(), PLAIN)
    assert (small.configuration, small.batch_dice) == ("3d_fullres", False)


@pytest.mark.parametrize("preset", ["plain", "M", "L", "XL"])
def test_the_planner_of_nnunet_decides_what_its_rules_say(preset):
    info = model_info("plain_unet" if preset == "plain" else "resenc_unet")
    seen = volumes(**LARGE)
    expected = nnunet_plan((1.0, 0.767578125, 0.767578125), (482, 512, 512), 30, 3, preset)
    for name, numbers in expected.items():
        plan = decide(seen, planned("nnunet", name, preset=preset), info)
        for key in ("patch_size", "batch_size", "spacing", "strides", "kernels", "widths", "batch_dice"):
            assert getattr(plan, key) == numbers[key]
        assert plan.crop_nonzero
        assert "nnU-Net's rule" in plan.reasons["patch_size"]


def test_the_preset_follows_the_network_and_memory_scales_it():
    def estimate(name, **plan):
        return decide(volumes(), planned("nnunet", **plan), model_info(name)).reasons["patch_size"]

    assert "8 GB" in estimate("plain_unet")
    assert "560 million that fit" in estimate("plain_unet")
    assert "680 million that fit" in estimate("resenc_unet")
    assert "3150 million that fit" in estimate("resenc_unet", preset="L", memory_gb=36)


def test_another_network_gets_sizes_that_it_can_take():
    plan = decide(volumes(), planned("nnunet"), OTHER)
    assert plan.patch_size == (32, 320, 256)
    assert "20 x 320 x 256 is brought to what other takes" in plan.reasons["patch_size"]
    assert "other may need more memory" in plan.reasons["patch_size"]
    assert plan.strides == ()


def test_overrides_go_before_the_planner_of_nnunet():
    tree = {"plan": {"planner": "nnunet"}, "data": {"patch_size": [16, 64, 64]}, "train": {"batch_size": 5}}
    plan = decide(volumes(), recipe(**tree), PLAIN)
    assert (plan.patch_size, plan.batch_size) == ((16, 64, 64), 5)
    alone = decide(volumes(), recipe(plan={"planner": "nnunet"}, data={"patch_size": [16, 64, 64]}), PLAIN)
    # a twentieth of thirty images of 20 x 320 x 319
    assert alone.batch_size == round(0.05 * 30 * 20 * 320 * 319 / (16 * 64 * 64))


def test_nnunet_counts_what_is_ignored_as_a_label():
    seen = volumes((50, 36, 35), (1, 1, 1))
    ignoring = replace(seen, labels=Labels(("liver", "tumour"), ((1,), (2,)), ignore=(3,)))
    plan = decide(ignoring, planned("nnunet"), PLAIN)
    assert plan.batch_size == nnunet_plan((1, 1, 1), (35, 36, 50), 30, 4)["3d_fullres"]["batch_size"]


def test_nnunet_goes_by_names_of_channels_and_masks():
    plan = decide(pictures(), planned("nnunet"), PLAIN)
    assert {rule.scheme for rule in plan.normalization} == {"zscore"}
    sparse = pictures(cropped=((300, 300),) * 30)
    assert {rule.scheme for rule in decide(sparse, planned("nnunet"), PLAIN).normalization} == {"zscore_mask"}


@pytest.mark.parametrize("planner", ["unetkit", "nnunet"])
def test_a_single_slice_goes_first_and_is_planned_in_2d(planner):
    plan = decide(volumes((50, 36, 1), (1, 1, 5)), planned(planner), PLAIN)
    assert (plan.configuration, plan.transpose, plan.dims) == ("2d", (2, 1, 0), 2)
    # of slices thinner than the plane is fine: their axis is not the coarsest
    thin = decide(volumes((1, 50, 36), (0.5, 1, 1)), planned("unetkit"), PLAIN)
    assert (thin.transpose, thin.dims) == ((0, 2, 1), 2)
    assert "a single slice" in thin.reasons["transpose"]


@pytest.mark.parametrize(
    ("seen", "info", "tree", "error", "message"),
    [
        (volumes(), PLAIN, {"plan": {"configuration": "3d_lowres"}}, RecipeError, r"sees 8\d% of the median image"),
        (volumes(), PLAIN, {"plan": {"configuration": "3d_cascade_fullres"}}, RecipeError, "use 3d_fullres"),
        (volumes(), FLAT, {"plan": {"configuration": "3d_fullres"}}, RecipeError, "flat works in 2D only"),
        (volumes(), SOLID, {"plan": {"configuration": "2d"}}, RecipeError, "solid works in 3D only"),
        (pictures(), PLAIN, {"plan": {"configuration": "3d_fullres"}}, RecipeError, "the images are 2D; use 2d"),
        (volumes((9, 9, 1), (1, 1, 1)), PLAIN, {"plan": {"configuration": "3d_fullres"}}, RecipeError, "has one slice"),
        (volumes((9, 9, 1), (1, 1, 1)), SOLID, {}, ModelError, "solid works in 3D only, this needs 2D"),
        (volumes((9, 9, 1), (1, 1, 1)), PLAIN, {"data": {"patch_size": [8, 8, 8]}}, RecipeError, "give two numbers"),
        (volumes(), PLAIN, {"plan": {"configuration": "all"}}, RecipeError, "a study of several runs; a plan needs"),
        (
            volumes(**LARGE),
            PLAIN,
            {"plan": {"configuration": "3d_lowres", "spacing": "native"}},
            RecipeError,
            "without resampling there is no lower resolution",
        ),
        (
            volumes(),
            PLAIN,
            {"plan": {"configuration": "2d"}, "data": {"patch_size": [8, 8, 8]}},
            RecipeError,
            r"data\.patch_size \[8, 8, 8\] has 3 numbers, this needs 2",
        ),
        (
            volumes(),
            model_info("plain_unet"),
            {"plan": {"planner": "nnunet", "preset": "L"}},
            RecipeError,
            "made for another network than plain_unet; use plain",
        ),
        (volumes(spacing=(0.0, 1.0, 1.0)), PLAIN, {}, DataError, r"case 0: spacing \[0.0, 1.0, 1.0\]"),
        (volumes(spacing=(float("nan"), 1.0, 1.0)), PLAIN, {}, DataError, "voxels need a positive size in mm"),
    ],
)
def test_what_the_data_do_not_have_is_refused(seen, info, tree, error, message):
    with pytest.raises(error, match=message) as caught:
        decide(seen, recipe(**tree), info)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"preset": "L"}, "preset=L is one of nnU-Net's planners; add plan.planner=nnunet or drop it"),
        ({"planner": "nnunet", "file": "plan.json"}, "file holds a plan already"),
    ],
)
def test_contradictions_of_keys_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        recipe(plan=plan)
