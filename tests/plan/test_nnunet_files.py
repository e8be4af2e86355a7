"""Plans files written by nnU-Net 2.8.1 itself: read, written, used instead of planning, edited into nonsense."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_fingerprints import recipe, volumes

from unetkit.errors import DataError, RecipeError, ShapeError, UnetkitError
from unetkit.infer.network import build_network
from unetkit.plan import configurations_for, decide, read_nnunet_plans, write_nnunet_plans
from unetkit.plan.fingerprint import Intensity
from unetkit.plan.nnunet_files import Images
from unetkit.registry import model_info
from unetkit.types import Labels

# Synthetic data: 20 CTs of 400 x 512 x 500 voxels, and 32 MR images of 20 x 320 x 319 and two channels (z, y, x).
CT, MR = (Path(__file__).with_name("plans") / name for name in ("nnUNetPlans.json", "nnUNetResEncUNetLPlans.json"))
LABELS = Labels(("liver", "tumour"), ((1,), (2,)))
ALL = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
SEEN = Intensity(-100.0, 300.0, 50.0, 60.0, 40.0, minimum=-1000.0, maximum=3000.0)


def cts():
    """The CTs as a fingerprint; the zero border takes 40 % of each."""
    shape, spacing = (500, 512, 400), (0.8, 0.8, 1.5)
    seen = volumes(shape, spacing, intensities=(SEEN,), dtypes={"int16": 20})
    one = {"cases": tuple(map(str, range(20))), "spacings": (spacing,) * 20, "cropped": (shape,) * 20}
    return replace(seen, shapes=((500, 512, 667),) * 20, **one)


def edited(tmp_path, change, source=CT):
    tree = json.loads(source.read_text())
    change(tree)
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(tree))
    return path


def used(path, name="plain_unet", fingerprint=None, **tree):
    plan = {"file": str(path), **tree.pop("plan", {})}
    return decide(fingerprint or cts(), recipe(model={"name": name}, plan=plan, **tree), model_info(name))


@pytest.mark.parametrize("name", ALL)
def test_files_of_nnunet_say_what_the_planner_decides(name):
    read = read_nnunet_plans(CT, name, Images(LABELS, ("CT",)))
    asked = {"planner": "nnunet", "configuration": name}
    planned = decide(cts(), recipe(model={"name": "plain_unet"}, plan=asked), model_info("plain_unet"))
    assert replace(read, reasons={}, mirror_axes=()) == replace(planned, reasons={}, mirror_axes=())
    assert replace(used(CT, plan={"configuration": name}), reasons={}) == replace(planned, reasons={})


def test_files_are_written_as_nnunet_writes_them(tmp_path):
    info = model_info("plain_unet")
    plans = {
        name: decide(cts(), recipe(plan={"planner": "nnunet", "configuration": name}), info)
        for name in configurations_for(cts(), recipe(plan={"planner": "nnunet"}), info)
    }
    path = tmp_path / "nnUNetPlans.json"
    write_nnunet_plans(path, plans, cts(), dataset="Dataset001_Synthetic")
    assert json.loads(path.read_text()) == json.loads(CT.read_text())


def test_residual_encoders_channels_and_masks_are_read():
    plan = read_nnunet_plans(MR, "3d_fullres", Images(LABELS, ("T2", "ADC")))
    assert [rule.scheme for rule in plan.normalization] == ["zscore_mask"] * 2
    assert (plan.patch_size, plan.batch_size, plan.transpose) == ((20, 320, 320), 5, (2, 1, 0))


def test_labels_come_from_dataset_json(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(
        json.dumps({"labels": {"background": 0, "liver": 1, "tumour": 2}, "channel_names": {"0": "T2", "1": "ADC"}})
    )
    plan = read_nnunet_plans(MR, "2d", path)
    assert (plan.channels, plan.labels.classes) == (("T2", "ADC"), ("liver", "tumour"))


@pytest.mark.parametrize(("forward", "transpose"), [([0, 1, 2], (2, 1, 0)), ([2, 0, 1], (0, 2, 1))])
def test_axes_count_from_the_other_end(tmp_path, forward, transpose):
    def turn(tree):
        tree["transpose_forward"] = forward
        tree["transpose_backward"] = [forward.index(a) for a in range(3)]

    path = edited(tmp_path, turn)
    assert read_nnunet_plans(path, "3d_fullres", Images(LABELS, ("CT",))).transpose == transpose
    # arrays without a place in the body are read alike by both
    assert read_nnunet_plans(path, "3d_fullres", Images(LABELS, ("CT",), placed=False)).transpose == tuple(forward)
    flat = Images(LABELS, ("CT",), dims=2)
    assert read_nnunet_plans(path, "2d", flat).transpose == ()


def test_configurations_of_a_users_own_inherit(tmp_path):
    own = {"inherits_from": "3d_fullres", "batch_size": 7}
    path = edited(tmp_path, lambda tree: tree["configurations"].update(mine=own))
    plan = used(f"{path}#mine")
    assert (plan.batch_size, plan.configuration, plan.patch_size) == (7, "3d_fullres", (112, 160, 128))


def test_files_of_former_versions_are_read(tmp_path):
    def age(tree):
        held = tree["configurations"]["3d_fullres"]
        sizes = held.pop("architecture")["arch_kwargs"]
        held |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": sizes["n_conv_per_stage"],
            "n_conv_per_stage_decoder": sizes["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [4, 5, 5],
            "pool_op_kernel_sizes": sizes["strides"],
            "conv_kernel_sizes": sizes["kernel_sizes"],
        }

    images = Images(LABELS, ("CT",))
    old = read_nnunet_plans(edited(tmp_path, age), "3d_fullres", images)
    assert old == read_nnunet_plans(CT, "3d_fullres", images)


def test_overrides_go_on_top():
    tree = {
        "plan": {"spacing": [2, 1, 1], "widths": [4] * 6, "image_order": 1, "crop_nonzero": False},
        "data": {"patch_size": [32, 64, 64], "normalization": "zscore"},
        "train": {"batch_size": 3, "augment": {"mirror": False}},
    }
    plan = used(CT, **tree)
    assert (plan.patch_size, plan.batch_size, plan.spacing) == ((32, 64, 64), 3, (2, 1, 1))
    assert (plan.widths, plan.resampling["image"], plan.crop_nonzero, plan.mirror_axes) == ((4,) * 6, 1, False, ())
    assert plan.normalization[0].scheme == "zscore"
    assert plan.reasons["patch_size"] == plan.reasons["widths"] == "as the recipe says"
    assert plan.reasons["strides"].endswith("nnUNetPlans.json says")
    network = build_network(recipe(model={"name": "plain_unet"}), plan)
    assert sum(p.numel() for p in network.parameters()) < 20_000


def test_a_plan_of_our_own_is_used_as_it_is(tmp_path):
    made = decide(cts(), recipe(), model_info("unet"))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made.to_json()))
    assert replace(used(path, "unet"), reasons={}) == replace(made, reasons={})


def test_all_configurations_of_a_file():
    tree = {"plan": {"file": str(CT), "configuration": "all"}}
    assert configurations_for(cts(), recipe(**tree), model_info("plain_unet")) == ALL
    assert configurations_for(cts(), recipe(**tree), model_info("transunet")) == ("2d",)


FULL = ("configurations", "3d_fullres")
SIZES = (*FULL, "architecture", "arch_kwargs")


def at(*keys, value):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at(*FULL, "patch_size", value=[100, 160, 160]), r"divide the patch by \[16, 32, 32\].*use \[112, 160, 160\]"),
        (at(*FULL, "patch_size", value=[96, 160]), r"network of 2 axes|for a patch of 2 axes"),
        (at(*FULL, "patch_size", value=[96, 160.5, 160]), "patch_size.*expected a whole number"),
        (at(*FULL, "batch_size", value=0), "batch_size=0: expected greater than or equal to 1"),
        (at(*FULL, "spacing", value=[1.5, -0.8, 0.8]), "spacing.*-0.8.*greater than 0"),
        (at(*FULL, "spacing", value=[1.5, 0.8]), r"spacing \[1.5, 0.8\] for a patch of 3 axes"),
        (at(*FULL, "patchsize", value=[1]), "unknown key 'patchsize' .did you mean 'patch_size'"),
        (at("transpose_foward", value=[0, 1, 2]), "unknown key 'transpose_foward' .did you mean 'transpose_forward'"),
        (at("transpose_forward", value=[0, 0, 1]), "give the axes 0, 1 and 2 in some order"),
        (at(*SIZES, "features_per_stage", value=[32, 64]), "6 strides, 6 kernels and 2 widths contradict each other"),
        (at(*SIZES, "kernel_sizes", value=[[3, 3, 3]]), "6 strides, 1 kernels and 6 widths"),
        (at(*SIZES, "strides", value=[[1, 1]] * 6), r"\[1, 1\] for a network of 3 axes"),
        (at(*SIZES, "nonlin", value="torch.nn.ReLU"), "expected one of torch.nn.LeakyReLU"),
        (at(*SIZES, "n_conv_per_stage", value=[2, 2, 2, 2, 2, 9]), r"add model.blocks=\[2, 2, 2, 2, 2, 9\]"),
        (at(*SIZES, "n_stages", value=5), "n_stages 5, but 6 strides"),
        (at(*FULL, "normalization_schemes", value=["Magic"]), "normalisation Magic: known are CTNormalization, ZSc"),
        (at(*FULL, "normalization_schemes", value=[]), "give one each"),
        (at(*FULL, "resampling_fn_data", value="mine"), "expected one of resample_data_or_seg_to_shape"),
        (at(*FULL, "inherits_from", value="3d_cascade_fullres"), "a circle; cut it"),
        (at(*FULL, "inherits_from", value="3d"), "no configuration '3d' .inherited by 3d_fullres.*there are 2d"),
        (at(*FULL, "architecture", value="UNet"), "architecture=UNet: expected a section of keys"),
        (at("configurations", value={}), "no configuration '2d' .asked for"),
        (at("configurations", value=[]), "no plans of nnU-Net, which have `configurations`"),
        (at("foreground_intensity_properties_per_channel", value={}), "needs percentile_00_5, percentile_99_5, mean"),
    ],
)
def test_nonsense_is_one_line(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message) as caught:
        used(edited(tmp_path, change))
    assert "\n" not in str(caught.value)
    assert "nnUNetPlans.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("patch_size", value=[64, 64, "x"]), "patch_size.2: .*given 'x'"),
        (at("batch_size", value=0), "batch_size 0: give a whole number from 1 on"),
        (at("spacing", value=[1.0, 0.0, 1.0]), r"spacing \[1.0, 0.0, 1.0\]: give positive numbers"),
        (at("strides", value=[[1, 1, 1], [3, 2, 2]]), "contradict each other"),
        (at("colour", value="red"), "not a plan of unetkit .*colour"),
        (at("channels", value=["T1"]), "made for the channels T1, the data have CT"),
        (at("normalization", value=[]), "0 normalisations for 1 channel"),
        (at("transpose", value=[0, 1, 1]), "give the axes 0, 1 and 2"),
        (at("configuration", value="2d"), "plan.configuration=3d_fullres, but .* holds 2d"),
        (lambda tree: tree.pop("labels"), "not a plan of unetkit .'labels'"),
    ],
)
def test_nonsense_in_a_plan_of_our_own_is_one_line(tmp_path, change, message):
    tree = decide(cts(), recipe(data={"patch_size": [64, 64, 64]}), model_info("plain_unet")).to_json()
    tree = json.loads(json.dumps(tree))
    change(tree)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(RecipeError, match=message) as caught:
        used(path, plan={"configuration": "3d_fullres"})
    assert "\n" not in str(caught.value)
    assert "plan.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", DataError, "not valid JSON .line 1, column 2"),
        ("[]", RecipeError, "holds no plan; give a plan.json of unetkit"),
        ("{}", RecipeError, "not a plan of unetkit"),
        (None, DataError, "no such file; give a plan.json of unetkit or a plans file of nnU-Net"),
    ],
)
def test_files_without_a_plan(tmp_path, text, error, message):
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message) as caught:
        used(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tree", "message"),
    [
        ("resenc_unet", {}, "plans a PlainConvUNet, not resenc_unet; use model.name=plain_unet"),
        ("transunet", {"plan": {"configuration": "3d_fullres"}}, "3d_fullres is 3D, transunet is not"),
        ("plain_unet", {"data": {"patch_size": [90, 160, 160]}}, "which .90, 160, 160. does not allow"),
        ("plain_unet", {"plan": {"configuration": ["2d", "3d_fullres"]}}, "is for a study of several runs"),
        ("swin_unet", {}, "multiples of 32; the next legal size is .128, 160, 128"),
    ],
)
def test_plans_that_do_not_suit_the_recipe(name, tree, message):
    with pytest.raises((RecipeError, ShapeError), match=message) as caught:
        used(CT, name, **tree)
    assert "\n" not in str(caught.value)


def test_what_nnunet_has_no_word_for_is_not_written(tmp_path):
    plan = decide(cts(), recipe(data={"normalization": "percentile"}), model_info("plain_unet"))
    path = tmp_path / "out.json"
    for changed, message in (
        (plan, "no normalisation like percentile"),
        (replace(plan, strides=()), "has no strides; write plans of plain_unet or resenc_unet"),
        (replace(plan, resize=(64, 64)), "which nnU-Net does not know"),
    ):
        with pytest.raises(UnetkitError, match=message):
            write_nnunet_plans(path, {"3d_fullres": changed}, cts(), dataset="Dataset001_X")
    assert not path.exists()
