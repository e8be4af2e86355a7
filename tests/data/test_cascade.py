"""The masks of a cascade's earlier stage: read, cut, moved and mirrored as the image, and only they are roughened."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from unetkit.data.augment import Sample, augment
from unetkit.data.augment_draw import OPERATIONS, Draw, Morphology, draw_sample
from unetkit.data.augment_masks import apply_morphology, change_masks, drop_component
from unetkit.data.augment_table import PRESETS, Masks, Table, decide_table
from unetkit.data.cascade import encode_previous, network_input, one_hot, open_masks, stage_of
from unetkit.data.loader import TrainingLoader
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.streams import random_stream
from unetkit.errors import DataError, RecipeError, ShapeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import Recipe
from unetkit.recipe.training import AugmentSection
from unetkit.types import IGNORE, Case, Labels, Volume

CPU = torch.device("cpu")
ORGANS = Labels(("left", "right", "middle"), ((1,), (2,), (7,)), ignore=(9,))
WHOLE_AND_CORE = Labels(("whole", "core"), ((1, 2), (2,)), regions=True)


def make_plan(labels: Labels = ORGANS, patch: tuple[int, ...] = (8, 10, 12), **changes: object) -> Plan:
    parts = {
        "configuration": "3d_cascade_fullres",
        "previous": True,
        "transpose": (2, 1, 0),
        "spacing": (1.5, 1.0, 1.0),
    }
    return Plan(patch, 2, ("MR",), labels, (Normalization("none"),), **parts | changes)


def make_volumes(labels: Labels = ORGANS, seed: int = 0) -> tuple[Volume, Volume, Volume]:
    """An image that equals its own earlier stage (file values), that stage encoded, and a label that differs."""
    rng = np.random.default_rng(seed)
    values = np.array([0, *sorted({v for group in labels.values for v in group})], np.uint8)
    blobs = ndimage.gaussian_filter(rng.normal(size=(20, 18, 14)), 2)
    stage = values[np.digitize(blobs, np.quantile(blobs, np.linspace(0.3, 1, len(values))[:-1]))]
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    image, raw = (Volume(a[None], (1.0, 1.0, 2.0), affine) for a in (stage.astype(np.float32), stage))
    encoded = encode_previous(raw, image, labels, "a")
    return image, encoded, replace(encoded, data=np.roll(encoded.data, 3, axis=1))


def make_case(plan: Plan, seed: int = 0) -> Prepared:
    image, previous, label = make_volumes(plan.labels, seed)
    return preprocess(image, label, plan, case_id=f"case{seed}", previous=previous)


def make_recipe(**augment: object) -> Recipe:
    tree = {"train": {"augment": {"preset": "none", **augment}, "workers": 0, "oversample": 0.5}}
    return Recipe.model_validate(tree)


def first_batches(plan: Plan, recipe: Recipe, start: int = 0, count: int = 3) -> list:
    loader = TrainingLoader([make_case(plan, seed) for seed in range(3)], plan, recipe)
    source = loader.batches(start)
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("labels", [ORGANS, WHOLE_AND_CORE])
@pytest.mark.parametrize("patch", [(8, 10, 12), (10, 12), (40, 40, 40)])
def test_the_network_sees_the_image_and_a_channel_per_class(labels: Labels, patch: tuple[int, ...]) -> None:
    plan = make_plan(labels, patch, spacing=None)
    for batch in first_batches(plan, make_recipe()):
        image, masks = batch.image[:, :1], batch.image[:, 1:]
        assert batch.image.shape[1] == plan.task.in_channels
        assert batch.label.shape[1] == (len(labels.classes) if labels.regions else 1)
        # The image holds the file values of the stage itself; where a patch leaves it, 0 and no class.
        for channel, values in enumerate(labels.values):
            expected = torch.isin(image[:, 0], torch.tensor(values, dtype=torch.float32))
            assert torch.equal(masks[:, channel] == 1, expected)
        assert set(masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("labels", [ORGANS, WHOLE_AND_CORE])
def test_masks_turn_and_mirror_with_the_label(labels: Labels) -> None:
    recipe = make_recipe(rotation_p=1.0, rotation_degrees=30.0, scale_p=1.0, scale=(0.8, 1.2), mirror=[0, 1, 2])
    plan = make_plan(labels)
    case = make_case(plan)
    loader = TrainingLoader([replace(case, label=case.previous)], plan, recipe)
    for step, batch in enumerate(loader.batches()):
        # An earlier stage without fault is the label itself, wherever the sample has gone.
        expected = one_hot(batch.label, len(labels.classes), labels.regions)
        assert expected.any()
        assert torch.equal(batch.image[:, 1:], expected.float())
        if step == 5:
            break


@pytest.mark.parametrize("regions", [False, True])
def test_a_mirrored_mask_swaps_left_and_right_with_the_label(regions: bool) -> None:
    codes = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).view(1, 1, 4)
    stack = torch.stack([codes[0] == n for n in (1, 2, 3)]).to(torch.uint8) if regions else codes
    sample = Sample(codes.float(), torch.cat((stack, stack)), Draw(0, flips=(1,), swap=True), (0, 0), "c")
    table = Table(swap=((0, 1),) if regions else ((1, 2),), masks=Masks(channels=3, regions=regions))
    image, label = augment([sample], table, CPU)
    assert image[0, 0].flatten().tolist() == [3, 2, 1, 0]
    masks = image[0, 1:].reshape(3, 4).tolist()
    assert masks == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    again = label[0] if regions else one_hot(label, 3, False)[0]
    assert again.reshape(3, 4).tolist() == masks


def test_batches_do_not_depend_on_workers_or_start() -> None:
    plan, recipe = make_plan(), make_recipe(preset="nnunet")
    batches = first_batches(plan, recipe, 0, 6)
    later = first_batches(plan, recipe, 4, 2)
    with_workers = recipe.model_copy(update={"train": recipe.train.model_copy(update={"workers": 2})})
    for other, kept in ((later, batches[4:]), (first_batches(plan, with_workers, 0, 3), batches)):
        for one, two in zip(other, kept, strict=False):
            assert torch.equal(one.image, two.image)
            assert torch.equal(one.label, two.label)


def test_a_cascade_changes_neither_image_nor_label_of_a_sample() -> None:
    plan, recipe = make_plan(), make_recipe(preset="nnunet")
    alone = replace(plan, previous=False, configuration="3d_fullres")
    cases = [replace(make_case(plan, seed), previous=None) for seed in range(3)]
    source = TrainingLoader(cases, alone, recipe).batches()
    for batch, plain in zip(first_batches(plan, recipe), source, strict=False):
        assert torch.equal(batch.image[:, :1], plain.image)
        assert torch.equal(batch.label, plain.label)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", [(24, 31), (17, 24, 22)])
@pytest.mark.parametrize("radius", [1.0, 2.3, 5.0, 7.9])
def test_morphology_is_scipys_with_a_ball(operation: str, shape: tuple[int, ...], radius: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 2)
    mask = noise > np.quantile(noise, 0.7)
    reach = int(radius)
    ball = sum(g**2 for g in np.ogrid[(slice(-reach, reach + 1),) * len(shape)]) <= radius**2
    expected = {
        "dilation": lambda: ndimage.binary_dilation(mask, ball),
        "erosion": lambda: ndimage.binary_erosion(mask, ball, border_value=1),
        "opening": lambda: ndimage.binary_dilation(ndimage.binary_erosion(mask, ball, border_value=1), ball),
        "closing": lambda: ndimage.binary_erosion(ndimage.binary_dilation(mask, ball), ball, border_value=1),
    }[operation]()
    found = apply_morphology(torch.from_numpy(mask), Morphology(0, operation, radius))
    np.testing.assert_array_equal(found.numpy(), expected)
    empty = torch.zeros(shape, dtype=torch.bool)
    assert not apply_morphology(empty, Morphology(0, operation, radius)).any()


def test_what_a_class_gains_the_others_lose_unless_they_may_overlap() -> None:
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, 2:6, 2:6], masks[1, 6:10, 2:6] = True, True
    draw = Draw(0, morphology=(Morphology(0, "dilation", 2.0),))
    grown = change_masks(masks, draw, Masks(channels=2))
    assert grown[0].sum() > 16
    assert not (grown[0] & grown[1]).any()
    overlapping = change_masks(masks, draw, Masks(channels=2, regions=True))
    assert torch.equal(overlapping[1], masks[1])
    assert (overlapping[0] & overlapping[1]).any()
    assert masks.sum() == 32  # what was given stays as it was


def test_only_small_components_vanish_and_one_at_a_time() -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[0, 0], mask[1, 1], mask[0, 9], mask[4:9, 4:9] = True, True, True, True
    first, last = drop_component(mask, 0.0, 0.15), drop_component(mask, 0.99, 0.15)
    assert (mask & ~first).nonzero().tolist() == [[0, 0], [1, 1]]  # touching at a corner they are one
    assert (mask & ~last).nonzero().tolist() == [[0, 9]]
    assert not drop_component(mask, 0.99, 0.26)[4:9, 4:9].any()
    assert torch.equal(drop_component(mask, 0.5, 0.0), mask)


def test_masks_change_as_often_as_nnunet_says() -> None:
    table = decide_table(AugmentSection(), make_plan(), None)
    assert (table.masks.channels, table.masks.regions) == (3, False)
    draws = [draw_sample(table, 3, 1, random_stream(1, 0, i)) for i in range(3000)]
    # Probability 0.4 (0.2), and each of three channels with one half: one eighth of them has none.
    assert sum(bool(d.morphology) for d in draws) / 3000 == pytest.approx(0.4 * 7 / 8, abs=0.03)
    assert sum(bool(d.dropped) for d in draws) / 3000 == pytest.approx(0.2 * 7 / 8, abs=0.025)
    changes = [m for d in draws for m in d.morphology]
    assert {m.operation for m in changes} == set(OPERATIONS)
    assert {m.channel for m in changes} == {0, 1, 2}
    assert all(1 <= m.radius <= 8 for m in changes)
    assert PRESETS["none"].masks == Masks()


def test_maps_come_from_files_of_the_case_in_any_axis_order(tmp_path: Path) -> None:
    image, encoded, label = make_volumes()
    values = image.data[0].astype(np.uint8)
    values[:, 0] = 9  # to be ignored: no class
    stored = nib.as_closest_canonical(nib.Nifti1Image(values, image.affine))
    nib.save(stored, tmp_path / "a.nii.gz")
    plan = make_plan()
    masks = open_masks(tmp_path, plan)
    expected = encoded.data.copy()
    expected[:, :, 0] = 0
    np.testing.assert_array_equal(masks.read("a", image).data, expected)
    case = preprocess(image, label, plan, case_id="a")
    case = replace(case, previous=stage_of(Case("a", (), previous=masks.file("a")), case.geometry, plan))
    np.testing.assert_array_equal(
        case.previous, preprocess(image, None, plan, previous=masks.read("a", image)).previous
    )
    assert case.previous.shape[1:] == case.data.shape[1:]
    assert network_input(case, plan).shape[0] == 2
    assert IGNORE not in case.previous


def test_faults_of_the_earlier_stage_name_the_case(tmp_path: Path) -> None:
    image, encoded, label = make_volumes()
    plan = make_plan()
    masks = open_masks(tmp_path, plan)
    with pytest.raises(DataError, match=r"case a: .* holds no label map of that name .*; predict the case"):
        masks.file("a")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), image.affine), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=r"case a: the stage before has shape 4 x 4 x 4 against 20 x 18 x 14 of the im"):
        masks.read("a", image)
    nib.save(nib.Nifti1Image(np.full(image.shape, 5, np.uint8), image.affine), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=r"case a: the stage before: label values 5 \(5040 voxels\) belong to no class"):
        masks.read("a", image)
    with pytest.raises(DataError, match=r"case a: this network is the second stage .* give previous=FOLDER"):
        network_input(preprocess(image, None, plan, case_id="a"), plan)
    with pytest.raises(DataError, match=r"case a: this network is the second stage"):
        TrainingLoader([preprocess(image, label, plan, case_id="a")], plan, make_recipe())
    with pytest.raises(RecipeError, match=r"data.previous: a cascade needs the label maps"):
        open_masks(None, plan)
    with pytest.raises(DataError, match=r"data.previous=nowhere: no such folder"):
        open_masks("nowhere", plan)
    alone = replace(plan, previous=False, configuration="3d_fullres")
    with pytest.raises(RecipeError, match=r"configuration 3d_fullres sees no earlier stage; drop the key"):
        open_masks(tmp_path, alone)
    with pytest.raises(ShapeError, match=r"the network sees the image alone; drop it"):
        preprocess(image, None, alone, previous=encoded)
    assert open_masks(None, alone) is None
