"""Folders recognised as they are, and what does not fit is named."""

import h5py
import nibabel as nib
import numpy as np
import pytest
from small_files import SHAPE, nifti, opened, picture, picture_case, square, volume_case, write_json

from unetkit.data.cases import read_case
from unetkit.data.layouts.matching import core_of, pair_up
from unetkit.errors import DataError


def ids(dataset) -> list[str]:
    return [case.id for case in dataset.cases]


@pytest.mark.parametrize("masks", ["masks", "labels", "mask", "annotations", "Masks"])
def test_two_folders_of_equal_names(tmp_path, masks):
    for name in ("b2", "b10", "a"):
        picture(tmp_path / "images" / f"{name}.jpg", square(9))
        picture(tmp_path / masks / f"{name}.png", square(1))
    found = opened(tmp_path)
    assert (found.layout, found.dims, found.channels) == ("paired", 2, ("image",))
    assert ids(found) == ["a", "b2", "b10"]
    assert all(case.label is not None and case.label.parent.name == masks for case in found.cases)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("x.png", "x.gif"),
        ("x.png", "x_mask.png"),
        ("x.png", "x_seg.png"),
        ("x.png", "x-gt.png"),
        ("x.jpg", "mask_x.png"),
        ("image_13.png", "label_13.png"),
        ("img0007.png", "label0007.png"),
        ("21_training.tif", "21_manual1.gif"),
        ("Image_01L.jpg", "Image_01L_1stHO.png"),
        ("ISIC_0000001.jpg", "ISIC_0000001_segmentation.png"),
        ("scan 7 raw.png", "7.png"),
        ("X.PNG", "x.png"),
    ],
)
def test_names_of_image_and_mask_match(tmp_path, image, mask):
    other = ("other5.png", "other5.png")
    for folder, names in (("images", (image, other[0])), ("masks", (mask, other[1]))):
        for name in names:
            picture(tmp_path / folder / name, square(1))
    found = opened(tmp_path)
    assert len(found.cases) == 2
    assert {case.label.name for case in found.cases} == {mask, other[1]}


def test_a_mask_is_never_given_to_two_images(tmp_path):
    images = [tmp_path / f"case1_{side}.png" for side in "ab"]
    assert pair_up(images, [tmp_path / "mask_1.png"]).labels == {}


def test_words_that_are_the_whole_name_stay():
    assert core_of("mask") == "mask"
    assert core_of("image_13") == core_of("label_13") == "13"


def test_train_val_and_test_above_or_below_the_folders(tmp_path):
    for side in ("train", "val", "test"):
        for root, inner in ((tmp_path / "above" / side, ""), (tmp_path / "below", f"/{side}")):
            picture(root / f"images{inner}" / f"{side}1.png", square(9))
            picture(root / f"masks{inner}" / f"{side}1.png", square(1))
    for place in ("above", "below"):
        found = opened(tmp_path / place)
        assert {case.id: case.split for case in found.cases} == {"train1": "train", "val1": "val", "test1": "test"}
        assert all(case.label is not None for case in found.cases)


def test_drive_as_it_is_distributed(tmp_path):
    for side, number in (("training", 21), ("test", 1)):
        picture(tmp_path / side / "images" / f"{number:02d}_{side}.tif", np.dstack([square(9)] * 3))
        picture(tmp_path / side / "1st_manual" / f"{number:02d}_manual1.gif", square(255))
        picture(tmp_path / side / "mask" / f"{number:02d}_{side}_mask.gif", np.full((16, 12), 255, np.uint8))
    found = opened(tmp_path, dataset="drive")
    assert {case.id: case.split for case in found.cases} == {"01_test": "test", "21_training": "train"}
    assert all(case.roi.parent.name == "mask" and case.label.parent.name == "1st_manual" for case in found.cases)
    assert found.labels.classes == ("vessel",)


def test_a_field_of_view_is_not_taken_for_the_missing_labels_of_a_test_side(tmp_path):
    for side, name in (("training", "21_training"), ("test", "01_test")):
        picture(tmp_path / side / "images" / f"{name}.tif", np.dstack([square(9)] * 3))
        picture(tmp_path / side / "mask" / f"{name}_mask.gif", np.full((16, 12), 255, np.uint8))
    picture(tmp_path / "training" / "1st_manual" / "21_manual1.gif", square(255))
    test, training = opened(tmp_path).cases
    assert (test.label, test.roi.name) == (None, "01_test_mask.gif")
    assert (training.label.name, training.roi.name) == ("21_manual1.gif", "21_training_mask.gif")


def test_images_and_masks_in_one_folder(tmp_path):
    for name in ("brain1", "breast1"):
        nifti(tmp_path / f"{name}_image.nii.gz", np.zeros(SHAPE, np.int16))
        nifti(tmp_path / f"{name}_label.nii.gz", np.ones(SHAPE, np.uint8))
    found = opened(tmp_path)
    assert [(c.images[0].name, c.label.name) for c in found.cases] == [
        ("brain1_image.nii.gz", "brain1_label.nii.gz"), ("breast1_image.nii.gz", "breast1_label.nii.gz")
    ]  # fmt: skip


def test_numbered_files_of_a_case_are_its_channels(tmp_path):
    for name in ("p1", "p2"):
        for channel in range(2):
            nifti(tmp_path / "images" / f"{name}_{channel:04d}.nii.gz", np.full(SHAPE, channel, np.int16))
        nifti(tmp_path / "labels" / f"{name}.nii.gz", np.ones(SHAPE, np.uint8))
    found = opened(tmp_path)
    assert ids(found) == ["p1", "p2"]
    assert found.channels == ("channel_0", "channel_1")
    assert read_case(found.cases[0], found.labels)[0].data[:, 0, 0, 0].tolist() == [0, 1]


def test_numbers_of_slices_are_no_channels(tmp_path):
    for number in range(3):
        picture_case(tmp_path, f"em_{number:04d}", square(255))
    assert ids(opened(tmp_path)) == ["em_0000", "em_0001", "em_0002"]


def test_hidden_twins_and_broken_links_are_no_cases_and_links_are(tmp_path):
    picture_case(tmp_path, "a", square(1))
    (tmp_path / "images" / "._a.png").write_bytes(b"twin")
    (tmp_path / "images" / ".DS_Store").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    kept = picture(tmp_path / "elsewhere" / "b.png", square(9))
    (tmp_path / "images" / "b.png").symlink_to(kept)
    picture(tmp_path / "masks" / "b.png", square(1))
    assert ids(opened(tmp_path)) == ["a", "b"]


def test_what_has_no_partner_is_noted_by_name(tmp_path):
    for name in ("a", "b"):
        picture_case(tmp_path, name, square(1))
    picture(tmp_path / "images" / "lonely.png", square(9))
    picture(tmp_path / "masks" / "widow.png", square(1))
    found = opened(tmp_path)
    assert "no label in masks for lonely (1); not used for training" in found.notes
    assert "no image in images for widow.png; left out" in found.notes
    assert [case.id for case in found.labelled] == ["a", "b"]


def test_folders_that_do_not_match_at_all_are_an_error(tmp_path):
    picture(tmp_path / "images" / "cat.png", square(9))
    picture(tmp_path / "masks" / "dog.png", square(1))
    with pytest.raises(DataError, match=r"masks \(such as dog.png\) matches an image of .*images \(such as cat.png\)"):
        opened(tmp_path)


@pytest.mark.parametrize("made", [(), ("images",), ("images", "masks")])
def test_zero_cases_are_an_error(tmp_path, made):
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"zero cases|holds no image") as fault:
        opened(tmp_path)
    assert "\n" not in str(fault.value)


def nnunet(root, labels, channels=1, **extra):
    for side, names in (("Tr", ("a_001", "a_002")), ("Ts", ("a_003",))):
        for name in names:
            for channel in range(channels):
                nifti(root / f"images{side}" / f"{name}_{channel:04d}.nii.gz", np.full(SHAPE, channel, np.int16))
            if side == "Tr":
                nifti(root / f"labels{side}" / f"{name}.nii.gz", np.ones(SHAPE, np.uint8))
    names = {str(n): ("CT", "PET")[n] for n in range(channels)}
    stated = extra or {"channel_names": names}
    write_json(root / "dataset.json", {"labels": labels, "file_ending": ".nii.gz", "numTraining": 2, **stated})


def test_nnunet_raw(tmp_path):
    nnunet(tmp_path, {"background": 0, "liver": 1, "tumour": 2}, channels=2)
    found = opened(tmp_path)
    assert (found.layout, found.channels) == ("nnunet", ("CT", "PET"))
    assert found.labels.classes == ("liver", "tumour")
    assert [(case.id, case.split, case.label is None) for case in found.cases] == [
        ("a_001", None, False), ("a_002", None, False), ("a_003", "test", True)
    ]  # fmt: skip
    assert len(found.cases[0].images) == 2


def test_nnunet_regions_and_ignore(tmp_path):
    nnunet(tmp_path, {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4})
    labels = opened(tmp_path).labels
    assert labels.regions
    assert labels.classes == ("whole", "core", "enhancing")
    assert labels.values == ((1, 2, 3), (2, 3), (3,))
    assert labels.ignore == (4,)


def test_nnunet_version_1_names_its_labels_by_value(tmp_path):
    nnunet(tmp_path, {"0": "background", "1": "liver"}, modality={"0": "MRI"}, training=[])
    found = opened(tmp_path)
    assert (found.layout, found.channels, found.labels.classes) == ("nnunet", ("MRI",), ("liver",))


def test_nnunet_splits_beside_the_data_become_folds(tmp_path):
    nnunet(tmp_path, {"background": 0, "liver": 1})
    folds = [{"train": ["a_002"], "val": ["a_001"]}, {"train": ["a_001"], "val": ["a_002"]}]
    write_json(tmp_path / "splits_final.json", folds)
    assert [(case.id, case.fold) for case in opened(tmp_path).cases] == [("a_001", 0), ("a_002", 1), ("a_003", None)]
    write_json(tmp_path / "splits_final.json", [folds[0], folds[0]])
    found = opened(tmp_path)
    assert {case.fold for case in found.cases} == {None}
    assert "splits_final.json: cases validate in several folds, which is no partition; not used" in found.notes


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "needs a list with train and val of each fold"),
        ([{"train": ["a_001"]}], "fold 0 has no list of val cases"),
        ([{"train": [], "val": ["a_003"]}], "a_003 validates, but is no training case"),
    ],
)
def test_nnunet_splits_that_cannot_be_followed_are_named(tmp_path, tree, message):
    nnunet(tmp_path, {"background": 0, "liver": 1})
    write_json(tmp_path / "splits_final.json", tree)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_nnunet_without_a_label_notes_the_case(tmp_path):
    nnunet(tmp_path, {"background": 0, "liver": 1})
    (tmp_path / "labelsTr" / "a_002.nii.gz").unlink()
    assert "imagesTr: no label for a_002; not used for training" in opened(tmp_path).notes


def test_decathlon_datalist(tmp_path):
    for name in ("h1", "h2"):
        volume_case(tmp_path, name, images="imagesTr", labels="labelsTr")
    nifti(tmp_path / "imagesTs" / "h3.nii.gz", np.zeros(SHAPE, np.int16))
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz", "fold": f}
               for f, n in enumerate(("h1", "h2"))]  # fmt: skip
    tree = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "A", "2": "P"},
            "training": entries, "test": ["./imagesTs/h3.nii.gz"]}  # fmt: skip
    path = write_json(tmp_path / "dataset.json", tree)
    for root in (tmp_path, path):
        found = opened(root)
        assert (found.name, found.layout, found.labels.classes) == ("Hippocampus", "decathlon", ("A", "P"))
        assert [(c.id, c.split, c.fold) for c in found.cases] == [
            ("h1", None, 0),
            ("h2", None, 1),
            ("h3", "test", None),
        ]
    tree["training"][1]["image"] = "./imagesTr/h9.nii.gz"
    write_json(path, tree)
    with pytest.raises(DataError, match=r"dataset.json: case h9 names .*h9.nii.gz, which is not there"):
        opened(tmp_path)


def test_cases_in_folders_of_their_own_take_the_name_of_the_folder(tmp_path):
    entries = []
    for name in ("p1", "p2"):
        volume_case(tmp_path, "flair", images=name, labels=f"{name}/truth")
        entries.append({"image": f"{name}/flair.nii.gz", "label": f"{name}/truth/flair.nii.gz"})
    write_json(tmp_path / "datalist.json", {"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries})
    assert ids(opened(tmp_path)) == ["p1_flair", "p2_flair"]


def test_four_axes_in_a_decathlon_set_are_channels(tmp_path):
    nifti(tmp_path / "a.nii.gz", np.zeros((*SHAPE, 4), np.float32))
    nifti(tmp_path / "a_seg.nii.gz", np.ones(SHAPE, np.uint8))
    tree = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema"},
        "training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz"}],
    }
    write_json(tmp_path / "dataset.json", tree)
    found = opened(tmp_path)
    assert found.channels == ("FLAIR", "T1w", "t1gd", "T2w")
    assert read_case(found.cases[0], found.labels)[0].channels == 4


def test_json_manifest_with_groups_lists_and_a_second_site(tmp_path):
    for name in ("a", "b", "c"):
        picture_case(tmp_path, name, square(255))
    picture(tmp_path / "fov" / "a.png", square(1))
    cases = {n: {"image": f"images/{n}.png", "label": f"masks/{n}.png", "patient": "p1"} for n in "abc"}
    cases["a"]["roi_mask"] = "fov/a.png"
    write_json(tmp_path / "split.json", {"name": "mine", "labels": {"0": "background", "255": "lung"}, "cases": cases,
                                         "train": ["a"], "test": ["b"], "test_far": ["c"]})  # fmt: skip
    found = opened(tmp_path)
    assert (found.name, found.layout, found.labels.classes) == ("mine", "manifest", ("lung",))
    assert [(c.split, c.group) for c in found.cases] == [("train", "p1"), ("test", "p1"), ("test_far", "p1")]
    assert found.cases[0].roi == tmp_path / "fov" / "a.png"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_manifest(tmp_path, separator):
    for name in ("a", "b"):
        volume_case(tmp_path, name)
    rows = [["id", "image", "image2", "label", "group", "split", "fold"],
            ["one", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "p", "training", "0"],
            ["two", "images/b.nii.gz", "images/a.nii.gz", "labels/b.nii.gz", "", "test", ""]]  # fmt: skip
    (tmp_path / "manifest.csv").write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    first, second = opened(tmp_path).cases
    assert (first.id, len(first.images), first.group, first.split, first.fold) == ("one", 2, "p", "train", 0)
    assert (second.group, second.split, second.fold) == (None, "test", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,image,labels\na,x.png,y.png", r"unknown column 'labels' \(did you mean 'label'\?\)"),
        ("name,image\na,x.png", "unknown column 'name'"),
        ("id,label\na,x.png", "at least id and image are needed"),
        ("id,image\na,x.png\na,x.png", "two cases are called 'a'"),
        ("id,image\na,x.png", "case a names .*x.png, which is not there"),
        ("id,image,split\na,x.png,later", "case 'a' has split 'later'; give train, val"),
        ("id,image", "zero cases"),
    ],
)
def test_faults_of_a_csv_are_named(tmp_path, text, message):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"cases": {"a": {"image": "x.png"}}, "train": ["b"]}, "'b' of list 'train' is no case"),
        ({"cases": {"a": {"image": "x.png"}}, "train": ["a"], "test": ["a"]}, "case 'a' is in both 'train' and 'test'"),
        ({"cases": {"a": {"image": "x.png", "label": 3}}}, "case 'a' has files .* give a path as text"),
        ({"cases": {"a": "x.png"}}, "case 'a' is 'x.png'; give an object"),
        ({"cases": {}}, "zero cases"),
        ({"cases": {"a": {"image": 3}}}, r"case 'a' has files \[3, '', ''\]"),
        ({"cases": [{"id": "a", "image": "x.png"}] * 2}, "two cases are called 'a'"),
        ({"cases": ["x.png"]}, "case '0' is 'x.png'; give an object"),
    ],
)
def test_faults_of_a_json_manifest_are_named(tmp_path, tree, message):
    write_json(tmp_path / "manifest.json", tree)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_an_entry_of_a_datalist_names_files_as_text(tmp_path):
    write_json(tmp_path / "dataset.json", {"training": [{"image": "x.png", "label": ["y.png"]}]})
    with pytest.raises(DataError, match=r"training\[0\] has files .*give paths as text"):
        opened(tmp_path)


def test_broken_json_is_named_with_its_line(tmp_path):
    (tmp_path / "split.json").write_text('{"cases": {\n"a": }')
    with pytest.raises(DataError, match=r"split.json: not valid JSON \(line 2"):
        opened(tmp_path)


@pytest.mark.parametrize("places", [("imagesTr", "labelsTr"), ("Training/img", "Training/label"), (".", ".")])
def test_raw_synapse(tmp_path, places):
    for number in (1, 5, 40, 61):
        nifti(tmp_path / places[0] / f"img{number:04d}.nii.gz", np.zeros(SHAPE, np.int16))
    for number in (1, 5, 40):
        nifti(tmp_path / places[1] / f"label{number:04d}.nii.gz", np.arange(120).reshape(SHAPE).astype(np.uint8) % 14)
    found = opened(tmp_path)
    assert (found.layout, found.channels, len(found.labels.classes)) == ("synapse_raw", ("CT",), 13)
    assert [(c.id, c.split) for c in found.cases] == [
        ("case0001", "test"), ("case0005", "train"), ("case0040", "train"), ("case0061", None)
    ]  # fmt: skip
    assert found.notes == ("no label for case0061; not used for training",)
    protocol = opened(tmp_path, dataset="synapse").labels
    assert protocol.classes[:2] == ("aorta", "gallbladder")
    assert protocol.values[:2] == ((8,), (4,))


def test_prepared_synapse_slices_are_volumes_with_the_published_numbers(tmp_path):
    (tmp_path / "train_npz").mkdir()
    (tmp_path / "test_vol_h5").mkdir()
    label = np.zeros((4, 4), np.float32)
    label[0, 0] = 8
    for number in range(3):
        np.savez(
            tmp_path / "train_npz" / f"case0005_slice{number:03d}.npz", image=np.zeros((4, 4), np.float32), label=label
        )
    with h5py.File(tmp_path / "test_vol_h5" / "case0001.npy.h5", "w") as file:
        file["image"], file["label"] = np.zeros((2, 4, 4), np.float32), np.stack([label] * 2)
    found = opened(tmp_path, dataset="synapse")
    assert found.layout == "synapse_slices"
    assert [(c.id, c.split) for c in found.cases] == [("case0001", "test"), ("case0005", "train")]
    assert found.labels.classes[7] == "stomach"
    assert found.labels.values == tuple((n,) for n in range(1, 9))
    image, encoded = read_case(found.cases[1], found.labels)
    assert image.shape == (3, 4, 4)
    assert encoded.data[0, 0, 0, 0] == 8


def test_a_layout_can_be_forced_and_says_what_it_needs(tmp_path):
    picture_case(tmp_path, "a", square(1))
    write_json(tmp_path / "split.json", {"cases": {"only": {"image": "images/a.png", "label": "masks/a.png"}}})
    assert ids(opened(tmp_path)) == ["only"]
    assert ids(opened(tmp_path, layout="paired")) == ["a"]
    with pytest.raises(DataError, match=r"not laid out as data.layout=nnunet, which needs a dataset.json"):
        opened(tmp_path, layout="nnunet")


def test_a_foreign_json_beside_the_images_is_passed_over(tmp_path):
    picture_case(tmp_path, "a", square(1))
    write_json(tmp_path / "dataset.json", {"title": "anything"})
    assert opened(tmp_path).layout == "paired"


def test_nnunet_wins_over_paired_names_and_needs_its_ending(tmp_path):
    nnunet(tmp_path, {"background": 0, "liver": 1})
    tree = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nrrd"}
    write_json(tmp_path / "dataset.json", tree)
    with pytest.raises(DataError, match=r"imagesTr holds no images that end in '.nrrd'"):
        opened(tmp_path)
    assert nib.load(tmp_path / "imagesTr" / "a_001_0000.nii.gz").shape == SHAPE


@pytest.mark.parametrize(
    "table", ['"id","image","label"\n"a","x.png","y.png"\n', "id ; image;label\r\na;x.png; y.png\r\n"]
)
def test_tables_as_spreadsheets_write_them(tmp_path, table):
    picture(tmp_path / "x.png", square(9))
    picture(tmp_path / "y.png", square(1))
    (tmp_path / "manifest.csv").write_text(table, newline="")
    (found,) = opened(tmp_path).cases
    assert (found.id, found.images, found.label) == ("a", (tmp_path / "x.png",), tmp_path / "y.png")


@pytest.mark.parametrize(("table", "message"), [("id,image\n,x.png\n", "case 1 has no id"), ("\n", "at least id and")])
def test_faults_of_a_table_are_named(tmp_path, table, message):
    (tmp_path / "manifest.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
