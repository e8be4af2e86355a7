"""Surface distances against MONAI, surface-distance and MedPy's definition; properties; empty and malformed masks."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from unetkit.errors import RecipeError
from unetkit.metrics import assd, dice, distance, hausdorff, hd95, surface_dice, surface_distances
from unetkit.metrics.surface import element_sizes

SPACINGS = {2: (0.7, 1.6), 3: (2.5, 0.8, 1.1)}
DISTANCES = (hausdorff, hd95, assd)
SURFACES = ("voxel", "element")


def blobs(dims: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth random masks that mostly agree and reach the image's edge."""
    rng = np.random.default_rng(seed)
    shape = (37, 30) if dims == 2 else (17, 24, 21)
    field = gaussian_filter(rng.standard_normal(shape), 3)
    other = gaussian_filter(rng.standard_normal(shape), 3)
    return field > 0.2 * field.std(), field + 0.5 * other > 0.1 * field.std()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dims", [2, 3])
def test_equals_monai(dims, seed):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    pred, ref = blobs(dims, seed)
    spacing = SPACINGS[dims]
    p, r = (torch.from_numpy(mask)[None, None].float() for mask in (pred, ref))
    shared = {"include_background": True, "spacing": spacing}
    theirs = [
        monai.compute_dice(p, r),
        monai.compute_hausdorff_distance(p, r, **shared),
        monai.compute_hausdorff_distance(p, r, percentile=95, **shared),
        monai.compute_average_surface_distance(p, r, symmetric=True, **shared),
        monai.compute_surface_dice(p, r, [1.5], **shared),
        monai.compute_surface_dice(p, r, [1.5], use_subvoxels=True, **shared),
    ]
    ours = [
        dice(pred, ref),
        hausdorff(pred, ref, spacing),
        hd95(pred, ref, spacing),
        assd(pred, ref, spacing),
        surface_dice(pred, ref, spacing, 1.5),
        surface_dice(pred, ref, spacing, 1.5, surface="element"),
    ]
    # MONAI computes in single precision.
    assert ours == pytest.approx([float(value) for value in theirs], rel=2e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dims", [2, 3])
def test_elements_equal_surface_distance(dims, seed):
    theirs = pytest.importorskip("surface_distance")
    pred, ref = blobs(dims, seed)
    spacing = SPACINGS[dims]
    measured = theirs.compute_surface_distances(ref, pred, spacing)
    assert hd95(pred, ref, spacing, surface="element") == pytest.approx(
        theirs.compute_robust_hausdorff(measured, 95), abs=1e-9
    )
    assert surface_dice(pred, ref, spacing, 1.5, surface="element") == pytest.approx(
        theirs.compute_surface_dice_at_tolerance(measured, 1.5), abs=1e-9
    )
    to_pred, to_ref = theirs.compute_average_surface_distance(measured)
    ours = surface_distances(pred, ref, spacing, surface="element")
    assert np.average(ours.ref_to_pred, weights=ours.ref_weights) == pytest.approx(to_pred, abs=1e-9)
    assert np.average(ours.pred_to_ref, weights=ours.pred_weights) == pytest.approx(to_ref, abs=1e-9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 3.0), (1.0, 1.0, 1.0), (2.0, 0.7, 1.3)])
def test_every_element_size_equals_surface_distance(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = (
        tables.create_table_neighbour_code_to_contour_length(spacing)
        if len(spacing) == 2
        else tables.create_table_neighbour_code_to_surface_area(spacing)
    )
    np.testing.assert_allclose(element_sizes(spacing), theirs, atol=1e-6)


def test_element_sizes_keep_their_sums():
    """Stored sums, so that a change of the triangulation shows where surface-distance is not installed."""
    assert element_sizes((1.0, 1.0)).sum() == pytest.approx(4 + 6 * math.sqrt(2), abs=1e-9)
    assert element_sizes((1.0, 1.0, 1.0)).sum() == pytest.approx(241.34314, abs=1e-4)
    assert element_sizes((2.0, 0.7, 1.3)).sum() == pytest.approx(420.92276, abs=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_pooled_percentile_is_that_of_all_distances(dims):
    """MedPy's definition, written out: erosion, distance transform, percentile of the joined distances."""
    pred, ref = blobs(dims, 7)
    one, two = (mask & ~binary_erosion(mask) for mask in (pred, ref))
    joined = [distance_transform_edt(~b, sampling=SPACINGS[dims])[a] for a, b in ((one, two), (two, one))]
    expected = np.percentile(np.concatenate(joined), 95)
    assert hd95(pred, ref, SPACINGS[dims], method="pooled") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("surface", SURFACES)
def test_tree_and_distance_transform_agree(surface, monkeypatch):
    pred, ref = blobs(3, 3)
    tree = surface_distances(pred, ref, SPACINGS[3], surface=surface)
    monkeypatch.setattr(distance, "TREE_POINTS", 0)
    transform = surface_distances(pred, ref, SPACINGS[3], surface=surface)
    np.testing.assert_allclose(tree.pred_to_ref, transform.pred_to_ref, atol=1e-9)
    np.testing.assert_allclose(tree.ref_to_pred, transform.ref_to_pred, atol=1e-9)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("dims", [2, 3])
def test_properties(surface, dims):
    pred, ref = blobs(dims, 5)
    spacing = SPACINGS[dims]
    padded = [np.pad(mask, [(4, 1)] * dims) for mask in (pred, ref)]
    tripled = tuple(3 * s for s in spacing)
    for metric in DISTANCES:
        value = metric(pred, ref, spacing, surface=surface)
        assert value > 0
        assert metric(ref, pred, spacing, surface=surface) == pytest.approx(value)
        assert metric(*padded, spacing, surface=surface) == pytest.approx(value)
        assert metric(pred, ref, tripled, surface=surface) == pytest.approx(3 * value)
        assert metric(ref, ref, spacing, surface=surface) == 0
    nsd = surface_dice(pred, ref, spacing, 1.0, surface=surface)
    assert 0 < nsd < 1
    assert surface_dice(ref, pred, spacing, 1.0, surface=surface) == pytest.approx(nsd)
    assert surface_dice(pred, ref, tripled, 3.0, surface=surface) == pytest.approx(nsd)
    assert surface_dice(ref, ref, spacing, 0.0, surface=surface) == 1


@pytest.mark.parametrize("surface", SURFACES)
def test_shift_is_measured_in_mm(surface):
    mask = np.zeros((20, 12, 12), bool)
    mask[4:9, 3:9, 3:9] = True
    assert hausdorff(np.roll(mask, 3, 0), mask, (2.0, 1.0, 1.0), surface=surface) == 6.0


@pytest.mark.parametrize("surface", SURFACES)
def test_empty_masks(surface):
    _, ref = blobs(2, 0)
    empty = np.zeros_like(ref)
    for metric in DISTANCES:
        assert metric(empty, ref, (1.0, 1.0), surface=surface) == math.inf
        assert metric(ref, empty, (1.0, 1.0), surface=surface) == math.inf
        assert math.isnan(metric(empty, empty, (1.0, 1.0), surface=surface))
    assert surface_dice(empty, ref, (1.0, 1.0), 9.0, surface=surface) == 0
    assert math.isnan(surface_dice(empty, empty, (1.0, 1.0), 9.0, surface=surface))


def test_unknown_options_are_refused_in_one_line():
    _, ref = blobs(2, 0)
    with pytest.raises(RecipeError, match=r"surface 'voxels' \(did you mean 'voxel'\?\): choose one of voxel, element"):
        assd(ref, ref, (1.0, 1.0), surface="voxels")
    with pytest.raises(RecipeError, match="hd95 'medpy': choose one of max, pooled"):
        hd95(ref, ref, (1.0, 1.0), method="medpy")
    with pytest.raises(RecipeError, match="tolerance_mm -1: give a distance in mm, 0 or more"):
        surface_dice(ref, ref, (1.0, 1.0), -1)
