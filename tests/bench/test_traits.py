"""Traits of data sets against shapes and edges whose values are known."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from unetkit.bench.boundary import REACH, measure_edge, measure_shape
from unetkit.bench.folder import open_bench
from unetkit.bench.traits import Traits, bench_traits, measure_traits, modality_of, spread
from unetkit.data.datasets import open_dataset
from unetkit.errors import CheckpointError, DataError
from unetkit.recipe.bench import checked_bench
from unetkit.recipe.schema import DataSection
from unetkit.types import Case


def ball(side, radius, dims):
    grid = np.indices((side,) * dims) - (side - 1) / 2
    return (grid**2).sum(axis=0) <= radius**2


def edge(image, mask):
    return measure_edge(image[None].astype(np.float32), mask, np.ones_like(mask))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ball_winds_once_at_any_size_and_spacing(dims):
    # a mask of voxels has a few percent more surface than the ball that it stands for
    for radius in (6, 10, 14):
        assert measure_shape(ball(32, radius, dims), (1.0,) * dims).winding == pytest.approx(1.07, abs=0.03)
    fine = ball(40, 15, dims)
    thick = fine[::2]  # the same ball in slices of twice the thickness
    assert measure_shape(thick, (2.0, *(1.0,) * (dims - 1))).winding == pytest.approx(1.08, abs=0.05)
    assert measure_shape(fine, (0.3,) * dims).winding == pytest.approx(measure_shape(fine, (1.0,) * dims).winding)


def test_winding_of_rectangles_is_their_perimeter_over_that_of_a_disc():
    # of a by b pixels, with corners cut from the middle of one side to that of the next
    for a, b in ((20, 20), (4, 100)):
        mask = np.pad(np.ones((a, b), bool), 3)
        perimeter = 2 * (a - 1) + 2 * (b - 1) + 4 * np.sqrt(0.5)
        found = measure_shape(mask, (1.0, 1.0))
        assert (found.components, found.winding) == (1, pytest.approx(perimeter / (2 * np.sqrt(np.pi * a * b))))


def test_components_count_for_themselves_and_weigh_by_volume():
    mask = np.zeros((60, 140), bool)
    mask[5:25, 5:25] = mask[35:55, 30:50] = True
    two = measure_shape(mask, (1.0, 1.0))
    one = measure_shape(mask[:30], (1.0, 1.0))
    assert (two.components, two.winding) == (2, pytest.approx(one.winding))
    mask[5, 100] = True  # a pixel of noise
    three = measure_shape(mask, (1.0, 1.0))
    assert three.components == 3
    assert three.winding == pytest.approx((800 * one.winding + 1.0) / 801)


def test_a_step_is_sharp_and_a_ramp_shares_its_contrast():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    assert edge(np.where(mask, 5.0, 2.0), mask).sharpness == 1.0
    # a ramp of 1 a pixel: the bands, from 2 to REACH pixels of the boundary, lie REACH + 1 apart in the mean
    ramp = np.broadcast_to(40.0 - np.arange(40), (40, 40))
    assert edge(ramp, mask).sharpness == pytest.approx(1 / (REACH + 1))


def test_contrast_is_the_separability_of_the_bands():
    mask = np.zeros((400, 400), bool)
    mask[:, :200] = True
    noise = np.random.default_rng(0).normal(size=mask.shape)
    # means d apart, deviation 1: d^2 / 4 between the bands, 1 within
    assert edge(2.0 * mask + noise, mask).contrast == pytest.approx(0.5, abs=0.03)
    assert edge(np.where(mask, 3.0, 1.0), mask).contrast == 1.0
    assert edge(np.ones_like(noise), mask).sharpness is None


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_blurring_an_image_lowers_its_sharpness(dims, noise):
    mask = ball(90 if dims == 2 else 44, 15, dims)
    image = 1.0 * mask + noise * np.random.default_rng(1).normal(size=mask.shape)
    found = [edge(ndimage.gaussian_filter(image, sigma), mask).sharpness for sigma in (0, 0.7, 1.2, 2, 3.5)]
    assert all(sharper > softer + 0.005 for sharper, softer in pairwise(found)), found
    # neither scale and offset of the intensities nor their sign matter
    changed = edge(7 - 3 * ndimage.gaussian_filter(image, 1.2), mask).sharpness
    assert changed == pytest.approx(found[2], rel=1e-4)


def test_an_edge_is_of_the_channel_that_shows_it_and_of_what_is_known():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    noise = np.random.default_rng(0).normal(size=mask.shape)
    image = np.stack([noise, 1.0 * mask]).astype(np.float32)
    assert measure_edge(image, mask, np.ones_like(mask)).sharpness == 1.0
    spoiled = np.where(np.arange(40)[:, None] < 20, 1.0 * mask, 100 * noise)[None].astype(np.float32)
    assert measure_edge(spoiled, mask, np.broadcast_to(np.arange(40)[:, None] < 20, mask.shape)).sharpness == 1.0
    assert measure_edge(image, np.ones_like(mask), np.ones_like(mask)) is None


def test_modality_is_what_the_channels_names_say():
    assert modality_of(["CT, soft-tissue window, 8 bit"], 3, True) == "CT"
    assert modality_of(["T1w", "flair"], 3, False) == "MR"
    assert modality_of(["chest X-ray, 8-bit grey"], 2, True) == "X-ray"
    assert modality_of(["red", "green", "blue"], 2, False) == "colour"
    assert modality_of(["red", "green", "blue"], 2, True) == "grey"
    assert modality_of(["image"], 2, True) == "grey"
    assert modality_of(["image"], 3, True) == "unknown"
    assert modality_of(["Elastography"], 2, False) == "elastography"


def test_cases_are_spread_over_all_names():
    cases = [Case(f"{n:02d}", ()) for n in reversed(range(10))]
    assert [case.id for case in spread(cases, 4)] == ["00", "03", "06", "09"]
    assert [case.id for case in spread(cases, 20)] == [f"{n:02d}" for n in range(10)]


def write_squares(root: Path, sides=(10, 20)) -> None:
    """Pictures of 40 x 50 pixels with a bright square each."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, side in enumerate(sides):
        mask = np.zeros((40, 50), np.uint8)
        mask[5 : 5 + side, 5 : 5 + side] = 1
        Image.fromarray(50 + 100 * mask).save(root / "images" / f"c{number}.png")
        Image.fromarray(mask).save(root / "labels" / f"c{number}.png")


def test_traits_of_a_folder(tmp_path):
    write_squares(tmp_path)
    found = measure_traits(open_dataset(DataSection(root=str(tmp_path))))
    assert (found.modality, found.dims, found.channels, found.classes, found.cases) == ("grey", 2, 1, 1, 2)
    assert (found.sides, found.voxels, found.measured) == ((40, 50), 2000.0, 2)
    assert found.foreground == pytest.approx((100 + 400) / 2 / 2000)
    assert (found.contrast, found.sharpness, found.components) == (1.0, 1.0, 1.0)
    assert found.winding == pytest.approx(1.1, abs=0.03)
    assert Traits.from_json(json.loads(json.dumps(found.to_json()))).sides == (40, 50)
    assert ("foreground share", "12.5 % of the image a class") in found.lines()
    with pytest.raises(DataError, match="no traits of a data set"):
        Traits.from_json({"modality": "CT"})


def test_nothing_labelled_is_said(tmp_path):
    write_squares(tmp_path, sides=(0, 0))
    with pytest.raises(DataError, match="none of 2 cases has a labelled voxel"):
        measure_traits(open_dataset(DataSection(root=str(tmp_path), classes={"square": 1})))


def test_a_benchmark_keeps_the_traits_of_its_data(tmp_path):
    write_squares(tmp_path / "squares")
    tree = {
        "models": ["unet"],
        "datasets": {"squares": {"data": {"root": str(tmp_path / "squares")}}},
        "budget": {"steps": 2},
        "output": str(tmp_path),
    }
    folder = open_bench(checked_bench(tree), "b")
    first = bench_traits(folder)
    # the data may then be gone, or on another machine
    (tmp_path / "squares").rename(tmp_path / "elsewhere")
    assert bench_traits(folder)["squares"].foreground == pytest.approx(first["squares"].foreground)
    (folder.path / "traits.json").write_text("{")
    with pytest.raises(CheckpointError, match="delete it to measure anew"):
        bench_traits(folder)
