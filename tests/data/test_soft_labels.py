"""SAUNA's soft labels: values of the reference, and the same voxels whatever brings them to the loss."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from store_children import two_cases
from stored import PLAN

from unetkit.data.augment import finished
from unetkit.data.augment_draw import Draw
from unetkit.data.augment_table import Masks, Table
from unetkit.data.loader import TrainingLoader
from unetkit.data.sampling import Patch, cut
from unetkit.data.soft_labels import chamfer, distance_to, sauna_map, soft_codes, soft_values
from unetkit.data.store import open_store
from unetkit.engine.prepare import prepare_plan, training_cases
from unetkit.recipe import Recipe
from unetkit.types import IGNORE, Labels


@pytest.fixture
def vessels() -> np.ndarray:
    """A disc of radius 9 and two lines, 3 and 1 pixels thick, that meet."""
    rows, columns = np.mgrid[:64, :64]
    mask = (rows - 20) ** 2 + (columns - 20) ** 2 <= 81
    mask[40:43, 5:60] = True
    mask[10:60, 50] = True
    return mask


def test_the_map_is_the_references(vessels: np.ndarray) -> None:
    # numbers from Oulu-IMEDS/SAUNA at dd46324
    found = sauna_map(vessels, ~vessels)
    assert (found.dtype, vessels.sum()) == (np.float32, 465)
    assert distance_to(~vessels).max() == pytest.approx(9.1968994140625, abs=1e-6)
    assert (found.mean(dtype=float), found.std(dtype=float)) == pytest.approx((-0.569431, 0.512785), abs=1e-6)
    points = {
        (20, 20): 1.0,
        (20, 29): 0.543661,
        (20, 30): -0.326197,
        (41, 10): 1.0,
        (20, 12): 0.478422,
        (41, 49): 0.978591,
        (0, 0): -1.0,
    }
    assert {place: found[place] for place in points} == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 57), (1, 9), (30, 2), (3, 3)])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.0])
def test_chamfer_is_opencvs(shape: tuple[int, int], share: float) -> None:
    places = np.random.default_rng(0).random(shape) < share
    places[-1, shape[1] // 2] = True
    expected = cv2.distanceTransform((~places).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    # versions of OpenCV that count in 65536ths of a pixel round each step
    np.testing.assert_allclose(chamfer(places), expected, atol=1e-3)


def test_in_space_the_distance_is_exact() -> None:
    places = np.zeros((4, 5, 6), bool)
    places[0, 0, 0] = True
    assert distance_to(places)[1, 2, 3] == pytest.approx(14**0.5)


def test_one_side_alone_is_sure(vessels: np.ndarray) -> None:
    none = np.zeros_like(vessels)
    assert (sauna_map(none, ~none) == -1).all()
    assert (sauna_map(~none, none) == 1).all()


def test_codes_keep_the_side_and_what_is_ignored(vessels: np.ndarray) -> None:
    label = np.stack([vessels, ~vessels]).astype(np.uint8)
    label[:, 30:36] = IGNORE
    codes = soft_codes(label, 2)
    assert codes.dtype == np.uint8
    known = label != IGNORE
    assert ((codes == IGNORE) == ~known).all()
    values = soft_values(torch.from_numpy(codes)).numpy()
    assert ((values > 0) == (label == 1))[known].all()
    exact = sauna_map(label[0] == 1, label[0] == 0)
    np.testing.assert_allclose(values[0][known[0]], exact[known[0]], atol=1 / 127)
    # a thin line in a large image is close to 0 and must not become it
    thick = np.zeros((1, 600, 600), np.uint8)
    thick[0, 20:580, 20:580] = 1
    assert ((soft_codes(thick, 2) > 127) == (thick == 1)).all()


def test_what_is_ignored_is_neither_side(vessels: np.ndarray) -> None:
    # cut through the thick line: it does not become thinner where nobody looked
    outside = ~vessels
    outside[:, 30:34] = False
    inside = vessels.copy()
    inside[:, 30:34] = False
    np.testing.assert_array_equal(sauna_map(inside, outside)[38:45, 20:30], sauna_map(vessels, ~vessels)[38:45, 20:30])


def test_slices_of_a_volume_have_their_own_maps(vessels: np.ndarray) -> None:
    label = np.stack([vessels, np.zeros_like(vessels), vessels.T])[None].astype(np.uint8)
    codes = soft_codes(label, 2)
    assert (codes[0, 1] == 0).all()
    np.testing.assert_array_equal(codes[0, 2], soft_codes(label[0, 2][None], 2)[0])
    block = np.repeat(label, 5, axis=1)
    assert (soft_codes(block, 3) != soft_codes(block, 2)).any()


def test_codes_are_cut_turned_and_swapped_with_their_labels() -> None:
    table = Table(swap=((0, 1),), soft=True, masks=Masks(channels=2, regions=True))
    label = torch.arange(6, dtype=torch.uint8)[:, None, None].expand(6, 2, 3)
    draw = Draw(seed=0, flips=(1,), swap=True)
    image, found = finished(torch.zeros(1, 2, 3), label, draw, table)
    assert found[:, 0, 0].tolist() == [1, 0, 3, 2]
    assert image.shape == (3, 2, 3)


REGIONS = replace(PLAN, labels=Labels(("a", "b"), ((1, 2), (2,)), regions=True, ignore=(9,)))


def test_the_store_keeps_them_beside_the_labels(tmp_path: Path) -> None:
    store, case = open_store(tmp_path / "store"), two_cases(tmp_path / "data")[0]
    plain = store.add(case, REGIONS, store.names(case, REGIONS)).open()
    found = store.add(case, REGIONS, store.names(case, REGIONS, soft=True)).open()
    assert plain.soft is None
    np.testing.assert_array_equal(found.soft, soft_codes(found.label, 3))
    _, below = cut(found, Patch(0, None, (0, 0, 0)), (-1, 0, 0), (4, 4, 4))
    assert below.shape == (4, 4, 4, 4)
    assert (below[2:, 0] == IGNORE).all()
    np.testing.assert_array_equal(below[2:, 1:], found.soft[:, :3, :4, :4])


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_batches_hold_labels_and_their_codes(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe.model_validate(
        {
            "data": {
                "dataset": "phantom2d",
                "generator": {"family": "vessels", "size": [48, 48]},
                "cases": 4,
                "regions": True,
                "patch_size": (32, 32),
                "cache": cache,
            },
            "model": {"name": "unet", "widths": [4, 8]},
            "train": {"batch_size": 2, "workers": 0, "loss": {"name": "focal_l1_jaccard", "targets": "sauna"}},
        }
    )
    preparation = prepare_plan(recipe, shown=False)
    cases = training_cases(preparation, recipe, shown=False)
    batch = next(TrainingLoader(cases, preparation.plan, recipe).batches())
    label, codes = batch.label.chunk(2, dim=1)
    assert batch.label.shape[1] == 2 * preparation.plan.labels.num_outputs
    assert ((label == IGNORE) == (codes == IGNORE)).all()
    assert ((label == 1) == (codes > 127))[label != IGNORE].all()
