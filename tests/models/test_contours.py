"""Contours: points to pixels and back, rings that know no first point, gradients through the drawing."""

import numpy as np
import pytest
import torch
from skimage.draw import ellipse, polygon2mask

from unetkit.blocks.contours import draw, outward_normals, pool_rings, pooled_rings, signed_distance, unpool_rings
from unetkit.data.contours import contour_points, outward_distances, resampled
from unetkit.errors import ModelError
from unetkit.models.gcn_multistructure import RingLayer, ring_lists
from unetkit.models.hybridgnet import ChebyshevLayer
from unetkit.registry import create_model

SIZE = (48, 80)


def star(points=24, seed=0):
    """A clockwise polygon [1, N, 2] about the middle, from the top on, with dents."""
    rng = np.random.default_rng(seed)
    angle, radius = np.arange(points) * 2 * np.pi / points, rng.uniform(0.2, 0.4, points)
    return torch.from_numpy(np.stack((0.5 + radius * np.sin(angle), 0.5 - radius * np.cos(angle)), 1)[None])


def two_ellipses():
    """Label [1, H, W] with a small class 2, and a class 1 in two parts and a speck."""
    label = np.zeros((1, *SIZE), np.uint8)
    label[0][ellipse(22, 60, 15, 12, shape=SIZE)] = 1
    label[0][ellipse(26, 20, 18, 11, shape=SIZE)] = 1
    label[0][ellipse(24, 41, 9, 6, shape=SIZE)] = 2
    label[0, 2, 2] = 1
    return label


@pytest.mark.parametrize("seed", range(3))
def test_inside_of_a_polygon_is_that_of_skimage(seed):
    points = star(seed=seed)
    corners = points[0].flip(1).numpy() * SIZE - 0.5  # row, column; skimage counts from pixel centres
    inside = (signed_distance(points, SIZE)[0] > 0).numpy()
    np.testing.assert_array_equal(inside, polygon2mask(SIZE, corners))


def test_distances_are_those_to_a_square():
    square = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]], dtype=torch.float64)
    found = signed_distance(square, (8, 8))[0]
    # pixel centres are half a pixel off the border
    np.testing.assert_allclose(found[3, :4], [-1.5, -0.5, 0.5, 1.5], atol=1e-6)
    np.testing.assert_allclose(found[0, 0], -(4.5**0.5), atol=1e-6)


def test_drawing_does_not_hang_on_how_pixels_are_shared_out(monkeypatch):
    points = star()
    whole = signed_distance(points, SIZE)
    monkeypatch.setattr("unetkit.blocks.contours._AT_ONCE", 1)
    torch.testing.assert_close(signed_distance(points, SIZE), whole, rtol=0, atol=0)


def test_gradients_of_distances():
    triangle = torch.tensor([[[0.2, 0.2], [0.81, 0.3], [0.5, 0.83]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: signed_distance(p, (6, 6)), triangle)


@pytest.mark.parametrize("rings", [((40, 44), (26,)), ((41, 43), (27,))])
def test_a_label_map_comes_back_from_its_contours(rings):
    label = two_ellipses()
    points, known = contour_points(label, rings, regions=False)
    assert known.all()
    found = draw(torch.from_numpy(points)[None], rings, SIZE, regions=False).argmax(1)[0].numpy()
    for value in (1, 2):
        overlap = ((found == value) & (label[0] == value)).sum()
        assert 2 * overlap / ((found == value).sum() + (label[0] == value).sum()) > 0.97


def test_contours_start_at_the_top_and_run_clockwise():
    points, _ = contour_points(two_ellipses(), ((40, 44), (26,)), regions=False)
    left, right = points[:40] * SIZE[::-1], points[40:84] * SIZE[::-1]
    np.testing.assert_allclose(left[0], (20.5, 9), atol=0.8)
    np.testing.assert_allclose(left[10], (31, 26.5), atol=1)  # a quarter of the way: to the right
    assert right[:, 0].min() > left[:, 0].max()
    steps = np.linalg.norm(np.diff(left, axis=0), axis=1)
    assert steps.max() < 1.1 * np.median(steps)


def test_a_mirrored_image_has_mirrored_contours():
    label = two_ellipses()
    points, _ = contour_points(label, ((40,), (26,)), regions=False)
    mirrored, _ = contour_points(label[:, :, ::-1].copy(), ((40,), (26,)), regions=False)
    back = np.stack((1 - mirrored[:, 0], mirrored[:, 1]), 1)
    for part in (slice(0, 40), slice(40, 66)):
        # the first point stays, the others come in the other order
        np.testing.assert_allclose(np.roll(back[part][::-1], 1, 0), points[part], atol=1e-6)


def test_what_is_absent_is_not_known():
    label = two_ellipses()
    label[label == 2] = 0
    points, known = contour_points(label, ((10, 10, 10), (8,)), regions=False)
    assert not known.any()  # class 1 has two parts and a speck, class 2 is absent
    assert not points.any()
    regions = np.stack([label[0] == 1, np.zeros(SIZE, bool)]).astype(np.uint8)
    assert contour_points(regions, ((10,), (8,)), regions=True)[1].tolist() == [True] * 10 + [False] * 8


def test_resampling_keeps_the_length_of_a_square():
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4], [0, 0]])
    expected = [[2, 0], [4, 0], [4, 2], [4, 4], [2, 4], [0, 4], [0, 2], [0, 0]]
    np.testing.assert_allclose(resampled(square, 8), expected, atol=1e-12)


def test_displaced_circles():
    angle = np.arange(40) * 2 * np.pi / 40
    inner, outer = (0.5 + r * np.stack((np.sin(angle), -np.cos(angle)), 1) for r in (0.2, 0.3))
    np.testing.assert_allclose(outward_distances(inner, outer), 0.1, atol=2e-3)
    moved = torch.from_numpy(inner)[None] + 0.1 * outward_normals(torch.from_numpy(inner)[None])
    torch.testing.assert_close(moved[0], torch.from_numpy(outer), atol=1e-9, rtol=0)
    # no normal of a contour outside meets one within
    assert (outward_distances(outer, inner) > 0.09).all()


def test_layers_over_rings_know_no_first_point():
    torch.manual_seed(0)
    layer = ChebyshevLayer(((8, 6), (7,)), 3, 4, 6).double()
    rings = [torch.randn(2, n, 3, dtype=torch.float64) for n in (8, 6, 7)]
    found = layer(torch.cat(rings, 1)).split((8, 6, 7), 1)
    turned = layer(torch.cat([r.roll(s, 1) for r, s in zip(rings, (3, 1, 5), strict=True)], 1)).split((8, 6, 7), 1)
    for one, other, steps in zip(found, turned, (3, 1, 5), strict=True):
        torch.testing.assert_close(one.roll(steps, 1), other)


def test_two_rings_that_turn_together_give_turned_points():
    torch.manual_seed(0)
    layer = RingLayer((8, 8), 3, 2, (4, 4)).double()
    rings = [torch.randn(1, 8, 2, dtype=torch.float64) for _ in range(2)]
    for one, other in zip(layer(rings), layer([r.roll(3, 1) for r in rings]), strict=True):
        torch.testing.assert_close(one.roll(3, 1), other)


def test_lists_of_neighbours():
    own, other = ring_lists(4, 5, 3)
    assert own.tolist() == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
    assert other.tolist() == [[4, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert ring_lists(3, 5, 2)[1].tolist() == [[4, 0], [0, 1], [1, 2]]  # even: one more before


def test_pooling_of_rings():
    rings = ((6,), (7,))
    values = torch.arange(13.0)[None, :, None]
    assert pooled_rings(rings) == ((3,), (4,))
    assert pool_rings(values, rings).flatten().tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12]
    kept = torch.tensor([0.0, 2, 4, 6, 8, 10, 12])[None, :, None]
    assert unpool_rings(kept, rings).flatten().tolist() == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hybridgnet", {"skips": 1, "rings": [[12, 10], 9]}),
        ("gcn_multistructure", {"rings": [[12, 10], 9], "size": "medium"}),
        ("gcn_multistructure", {"rings": [12, 12], "displacement": True}),
        ("gcn_multistructure", {"rings": [9, 20], "regions": False}),
    ],
)
def test_gradients_reach_every_parameter_through_the_drawing(name, options):
    torch.manual_seed(0)
    model = create_model(name, in_channels=2, num_classes=3, patch_size=(64, 64), **options).train()
    model(torch.randn(2, 2, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_single_contour_has_no_outer_ring():
    model = create_model("gcn_multistructure", in_channels=1, num_classes=1, patch_size=(32, 32), regions=True).eval()
    assert model.landmarks(torch.zeros(1, 1, 32, 32)).positions[0].shape == (1, 43, 2)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("hybridgnet", {"skips": 3}, "skips=3: choose 0"),
        ("hybridgnet", {"rings": [20]}, "contours of 1 classes, and there are 2"),
        ("hybridgnet", {"rings": [20, 4]}, "6 points or more"),
        ("hybridgnet", {"rings": [20, []]}, "6 points or more"),
        ("gcn_multistructure", {"size": "smal"}, "did you mean 'small'"),
        ("gcn_multistructure", {"rings": [20, 10], "displacement": True}, r"contours of \[20, 10\] points"),
    ],
)
def test_wrong_options_are_refused(name, options, line):
    with pytest.raises(ModelError, match=line):
        create_model(name, in_channels=1, num_classes=3, patch_size=(64, 64), **options)
