"""Data sets as recipes ask for them: labels by recipe, by the folder, or by what the files show."""

import numpy as np
import pytest
from PIL import Image
from small_files import SHAPE, nifti, opened, picture, picture_case, square, volume_case, write_json

from unetkit.data.cases import read_case
from unetkit.data.datasets import open_dataset
from unetkit.errors import DataError, RecipeError
from unetkit.recipe.schema import DataSection


def grey_masks(root, number=3):
    """Masks that went through JPEG, as those of Kvasir."""
    draw = np.random.default_rng(0)
    for index in range(number):
        mask = np.zeros((64, 64), np.uint8)
        mask[10 + index : 40, 15:50] = 255
        picture(root / "images" / f"{index}.jpg", draw.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        picture(root / "masks" / f"{index}.jpg", mask, quality=40)


def test_jpeg_masks_are_one_class_and_not_67(tmp_path):
    grey_masks(tmp_path)
    found = opened(tmp_path)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "masks" / "0.jpg")))) > 16
    assert (found.labels.classes, found.labels.threshold) == (("foreground",), 127.0)
    assert "grey masks" in found.notes[0]
    encoded = read_case(found.cases[0], found.labels)[1].data[0]
    assert abs(int(encoded.sum()) - 30 * 35) < 30


def test_declared_classes_do_not_hide_grey_masks(tmp_path):
    grey_masks(tmp_path)
    cases = {str(n): {"image": f"images/{n}.jpg", "label": f"masks/{n}.jpg"} for n in range(3)}
    write_json(tmp_path / "split.json", {"labels": {"0": "background", "255": "polyp"}, "cases": cases})
    found = opened(tmp_path)
    assert (found.labels.classes, found.labels.threshold) == (("polyp",), 127.0)
    assert opened(tmp_path, dataset="kvasir_seg").labels == found.labels
    assert opened(tmp_path, threshold=50.0).labels.threshold == 50.0


def test_png_masks_with_soft_edges_are_noticed(tmp_path):
    soft = np.zeros((64, 64), np.uint8)
    soft[16:48, 16:48] = 255
    soft[15, 16:48] = np.arange(32) * 8
    picture_case(tmp_path, "a", soft)
    assert opened(tmp_path).labels.threshold == 127.0


@pytest.mark.parametrize("inside", [1, 255])
def test_binary_masks_are_one_class(tmp_path, inside):
    for name in ("a", "b"):
        picture_case(tmp_path, name, square(inside))
    found = opened(tmp_path)
    assert (found.labels.classes, found.labels.values) == (("foreground",), ((inside,),))


def test_1_bit_and_8_bit_masks_can_be_mixed(tmp_path):
    picture_case(tmp_path, "a", square(255))
    picture_case(tmp_path, "b", square(1))
    Image.fromarray(square(255)).convert("1").save(tmp_path / "masks" / "b.png")
    found = opened(tmp_path)
    for case in found.cases:
        np.testing.assert_array_equal(read_case(case, found.labels)[1].data[0], square(1))


def test_values_200_500_600_are_three_classes(tmp_path):
    label = np.zeros(SHAPE)
    label[1], label[2], label[3] = 200, 500, 600
    nifti(tmp_path / "images" / "a.nii.gz", np.zeros(SHAPE))
    nifti(tmp_path / "labels" / "a.nii.gz", label)
    found = opened(tmp_path)
    assert found.labels.classes == ("label_200", "label_500", "label_600")
    assert "name them in data.classes" in found.notes[0]
    named = opened(tmp_path, classes={"blood": [500, 600], "muscle": 200}).labels
    assert (named.classes, named.values) == (("blood", "muscle"), ((500, 600), (200,)))


def test_instance_numbers_are_one_class_unless_told(tmp_path):
    for name, objects in (("a", 40), ("b", 90)):
        label = np.zeros((30, 40), np.uint16)
        label.flat[: objects * 5] = np.repeat(np.arange(1, objects + 1), 5)
        picture_case(tmp_path, name, label)
    found = opened(tmp_path)
    assert found.labels.classes == ("foreground",)
    assert "look like instance numbers (up to 90 in one file)" in found.notes[0]
    assert read_case(found.cases[1], found.labels)[1].data.sum() == 450
    assert opened(tmp_path, classes={"first": 1}, strict=False).labels.values == ((1,),)


def test_many_organs_are_no_instance_numbers(tmp_path):
    for name in ("a", "b"):
        volume_case(tmp_path, name)
        label = np.arange(120, dtype=np.uint8).reshape(SHAPE) % 61
        nifti(tmp_path / "labels" / f"{name}.nii.gz", label)
    assert len(opened(tmp_path).labels.classes) == 60


def test_value_0_as_the_wanted_class(tmp_path):
    picture_case(tmp_path, "em", square(0, outside=255))
    labels = opened(tmp_path, classes={"membrane": 0}).labels
    encoded = read_case(opened(tmp_path).case("em"), labels)[1].data[0]
    np.testing.assert_array_equal(encoded, square(1))


def test_a_named_value_0_is_a_class(tmp_path):
    picture_case(tmp_path, "em", square(0, outside=255))
    tree = {
        "labels": {"0": "membrane", "255": "cell interior"},
        "cases": {"em": {"image": "images/em.png", "label": "masks/em.png"}},
    }
    write_json(tmp_path / "split.json", tree)
    both = opened(tmp_path)
    assert both.labels.values == ((0,), (255,))
    assert "value 0 is the class 'membrane'" in both.notes[0]
    one = opened(tmp_path, classes={"membrane": 0}).labels
    assert (one.background, one.strict) == ((255,), True)


def test_scribbles_are_ignored_where_they_say_nothing(tmp_path):
    volume_case(tmp_path, "a", values=(0, 1, 2, 3, 4))
    labels = opened(tmp_path, ignore=[4]).labels
    assert (labels.classes, labels.ignore) == (("label_1", "label_2", "label_3"), (4,))
    cases = {"a": {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}}
    names = {"0": "background", "1": "a", "2": "b", "3": "c", "4": "unlabelled (ignore)"}
    write_json(tmp_path / "manifest.json", {"labels": names, "cases": cases})
    assert opened(tmp_path).labels.ignore == (4,)
    assert 255 in read_case(opened(tmp_path).cases[0], opened(tmp_path).labels)[1].data


def test_probability_masks_are_cut_in_the_middle(tmp_path):
    nifti(tmp_path / "images" / "a.nii.gz", np.zeros(SHAPE))
    nifti(tmp_path / "labels" / "a.nii.gz", np.linspace(0, 1, 120).reshape(SHAPE))
    assert opened(tmp_path).labels.threshold == 0.5


def test_masks_without_any_foreground_are_an_error(tmp_path):
    picture_case(tmp_path, "a", square(0))
    with pytest.raises(DataError, match=r"nothing but 0"):
        opened(tmp_path)


def test_the_recipe_goes_before_the_folder_and_its_other_classes_are_background(tmp_path):
    volume_case(tmp_path, "a")
    write_json(
        tmp_path / "manifest.json",
        {"labels": {"0": "background", "1": "liver", "2": "spleen"},
         "cases": {"a": {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}}},
    )  # fmt: skip
    assert opened(tmp_path).labels.classes == ("liver", "spleen")
    found = opened(tmp_path, classes={"organ": 2})
    assert found.labels.background == (0, 1)
    assert set(np.unique(read_case(found.cases[0], found.labels)[1].data)) == {0, 1}


def test_a_value_that_nobody_names_is_an_error_unless_told(tmp_path):
    volume_case(tmp_path, "a", values=(0, 1, 9))
    found = opened(tmp_path, classes={"liver": 1})
    with pytest.raises(DataError, match=r"case a: a.nii.gz: label values 9 \(20 voxels\) belong to no class"):
        read_case(found.cases[0], found.labels)
    assert read_case(found.cases[0], opened(tmp_path, classes={"liver": 1}, strict=False).labels)[1].data.max() == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": {"a": 1, "b": [1, 2]}}, "label value 1 is in both 'a' and 'b'"),
        ({"classes": {}}, "data.classes is empty"),
        ({"classes": {"a": 1}, "ignore": [1]}, "label value 1 is both class 'a' and ignored"),
        ({"regions": True}, "data.regions=true needs data.classes"),
        ({"classes": {f"c{n}": n for n in range(300)}}, "300 classes; at most 253"),
        ({"channels": ["CT", "PET"]}, "data.channels names 2 channels, the images have 1"),
        ({"generator": {"seed": 1}}, "data.generator is for generated data sets only"),
    ],
)
def test_contradictions_are_named(tmp_path, keys, message):
    volume_case(tmp_path, "a")
    with pytest.raises(RecipeError, match=message):
        opened(tmp_path, **keys)


def test_regions_may_overlap(tmp_path):
    volume_case(tmp_path, "a", values=(0, 1, 2, 3))
    found = opened(tmp_path, classes={"whole": [1, 2, 3], "core": [2, 3]}, regions=True)
    assert read_case(found.cases[0], found.labels)[1].data.shape == (2, *SHAPE)


def test_missing_data_says_where_to_get_it_and_what_to_try(tmp_path):
    with pytest.raises(
        DataError, match=r"data.dataset=synapse needs .* data.root=FOLDER .*data.dataset=phantom3d"
    ) as fault:
        open_dataset(DataSection(dataset="synapse"))
    assert "\n" not in str(fault.value)
    with pytest.raises(DataError, match=r"set data.root=FOLDER, or try data.dataset=phantom2d"):
        open_dataset(DataSection())
    (tmp_path / "hippocampus").mkdir()
    with pytest.raises(DataError, match=r"no such folder \(did you mean 'hippocampus'\?\)"):
        open_dataset(DataSection(root=str(tmp_path / "hipocampus")))


def test_generated_sets_are_written_and_read_back(tmp_path):
    section = DataSection(dataset="phantom2d", cases=4, generator={"size": [64, 64]})
    found = open_dataset(section, home=tmp_path)
    assert (found.layout, len(found.cases), found.limit) == ("manifest", 4, None)
    assert found.root.parent == tmp_path
    image, label = read_case(found.cases[0], found.labels)
    assert image.shape == label.shape == (64, 64)
    assert {case.split for case in found.cases} == {"train", "test"}


def test_cases_that_cannot_train_together_are_faults(tmp_path):
    picture_case(tmp_path, "a", square(1))
    picture_case(tmp_path, "b", square(1))
    picture_case(tmp_path, "c", square(1), image=np.dstack([square(5)] * 3))
    assert opened(tmp_path).faults == ("channels differ: 1 in most cases, 3 in c; give all cases the same channels",)
    bare = tmp_path / "bare"
    picture(bare / "images" / "a.png", square(1))
    assert "no case has a label file" in opened(bare).faults[0]
    assert opened(bare).labels is None


def test_an_unreadable_image_does_not_hide_the_others(tmp_path):
    picture_case(tmp_path, "a", square(1))
    picture_case(tmp_path, "b", square(1))
    (tmp_path / "images" / "a.png").write_bytes(b"")
    assert len(opened(tmp_path).cases) == 2
    (tmp_path / "images" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.png: is empty"):
        opened(tmp_path)


def test_a_case_is_found_by_its_id(tmp_path):
    picture_case(tmp_path, "kidney", square(1))
    with pytest.raises(DataError, match=r"no case 'kidny' \(did you mean 'kidney'\?\)"):
        opened(tmp_path).case("kidny")
