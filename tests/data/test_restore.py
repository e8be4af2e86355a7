"""Labels and probabilities made slab by slab are exactly those of the plain way, whatever the geometry."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from unetkit.data import restore
from unetkit.data.preprocess import Geometry, oriented
from unetkit.data.resample import linear_taps, nearest_index, resize
from unetkit.data.restore import Band, ChanceMap, LabelMap, bands
from unetkit.errors import ShapeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.types import Labels


def plan_of(outputs: int, regions: bool = False) -> Plan:
    names = tuple(f"c{n}" for n in range(outputs if regions else outputs - 1))
    labels = Labels(names, tuple((n + 1,) for n in range(len(names))), regions=regions)
    return Plan((8, 8, 8), 1, ("CT",), labels, (Normalization("none"),))


def between(shape: tuple[int, ...], size: tuple[int, ...], **changes) -> Geometry:
    """The geometry of an image of `size`, prepared to `shape`."""
    axes = tuple(range(len(shape)))
    parts = {"axes": axes, "flips": (False,) * len(shape), "box": tuple((0, n) for n in size), "input_shape": size}
    ones = (1.0,) * len(shape)
    return Geometry(**{"input_spacing": ones, "shape": shape, "spacing": ones} | parts | changes)


def random_geometry(rng: np.random.Generator) -> Geometry:
    """Finer, coarser and equal axes, one slice thick ones, crops, every order and direction of the axes."""
    dims = int(rng.choice([2, 3, 3]))
    shape = rng.integers(1, 12, dims)
    size = np.where(rng.random(dims) < 0.2, shape, rng.integers(1, 17, dims))
    full = size + rng.integers(0, 3, dims)
    start = [int(rng.integers(0, f - s + 1)) for f, s in zip(full, size, strict=True)]
    axes = rng.permutation(dims)
    return between(
        tuple(map(int, shape)),
        tuple(int(full[list(axes).index(a)]) for a in range(dims)),
        axes=tuple(map(int, axes)),
        flips=tuple(map(bool, rng.random(dims) < 0.5)),
        box=tuple((s, s + int(n)) for s, n in zip(start, size, strict=True)),
        separate=int(rng.integers(dims)) if rng.random() < 0.3 else None,
        corners=bool(rng.random() < 0.3),
    )


def plain(logits: torch.Tensor, geometry: Geometry, first: int) -> torch.Tensor:
    """All logits on the cropped grid, axis after axis, `first` before the others."""
    for axis in (first, *(a for a in range(logits.ndim - 1) if a != first)):
        old, new = logits.shape[axis + 1], geometry.cropped_shape[axis]
        if axis == geometry.separate or old == new:
            logits = logits.index_select(axis + 1, torch.from_numpy(nearest_index(old, new, geometry.corners)))
            continue
        low, high, share = linear_taps(old, new, geometry.corners)
        shape = [-1 if a == axis + 1 else 1 for a in range(logits.ndim)]
        keep, take = (torch.from_numpy(x.astype(np.float32)).view(shape) for x in (1 - share, share))
        lower, upper = (logits.index_select(axis + 1, torch.from_numpy(x)) for x in (low, high))
        logits = lower * keep + upper * take
    return logits


def pasted(values: torch.Tensor, geometry: Geometry) -> np.ndarray:
    out = np.zeros((len(values), *geometry.input_shape), np.uint8)
    window = (slice(None), *(slice(*b) for b in geometry.box))
    oriented(out, geometry.axes, geometry.flips)[window] = values.numpy()
    return out


def decided(logits: torch.Tensor, regions: bool) -> torch.Tensor:
    return (logits > 0) if regions else logits.argmax(0)[None]


def fill(made: LabelMap | ChanceMap, logits: torch.Tensor, rng: np.random.Generator, band: Band | None = None) -> None:
    """Give logits [K, *P] to a map, a few rows at a time in memory that is used again."""
    part = (
        logits
        if band is None
        else logits.narrow(band.axis + 1, band.region.start, band.region.stop - band.region.start)
    )
    rows, writer = part.movedim(made.axis + 1, 1), made.writer(band)
    done = 0
    while done < rows.shape[1]:
        slab = rows[:, done : done + int(rng.integers(1, 5))].clone()
        writer.add(slab)
        done += slab.shape[1]
        slab.fill_(torch.nan)


def fields(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    noise = rng.normal(size=shape).astype(np.float32)
    if kind == "smooth":
        noise = gaussian_filter(noise, (0, *(2,) * (len(shape) - 1))) * 10
    return torch.from_numpy(np.round(noise) if kind == "ties" else noise)


@pytest.mark.parametrize("kind", ["smooth", "noise", "ties"])
@pytest.mark.parametrize("dense", [0.0, 0.25, 2.0])
def test_labels_equal_the_plain_way_for_any_geometry(kind, dense, monkeypatch):
    """However cells are interpolated, as rows or as lists of points, and whatever is worked on at a time."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(restore, "_DENSE", dense)
    for trial in range(40):
        for name, small in (("_VOXELS", 50), ("_CACHED", 30), ("_POINTS", 7)):
            monkeypatch.setattr(restore, name, small if trial % 2 else 1 << 20)
        geometry, outputs, regions = random_geometry(rng), int(rng.integers(2, 6)), bool(rng.random() < 0.3)
        logits, plan = fields(kind, rng, (outputs, *geometry.shape)), plan_of(outputs, regions)
        made = LabelMap(geometry, plan, axis=int(rng.integers(len(geometry.shape))))
        fill(made, logits, rng)
        want = plain(logits, geometry, made.axis)
        np.testing.assert_array_equal(made.result, pasted(decided(want, regions), geometry))
        if kind != "ties":  # whose winner rounding would decide
            orders = [0 if a == geometry.separate else 1 for a in range(len(geometry.shape))]
            exact = resize(logits.double(), geometry.cropped_shape, orders, corners=geometry.corners)
            np.testing.assert_array_equal(made.result, pasted(decided(exact, regions), geometry))


def test_ties_go_to_the_lower_class_as_in_torch():
    """Doubling a grid has weights of quarters, which leave whole numbers exact in whatever order they are summed."""
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.integers(0, 3, (5, 9, 10, 11)).astype(np.float32))
    made = LabelMap(between((9, 10, 11), (18, 20, 22)), plan_of(5))
    fill(made, logits, rng)
    want = functional.interpolate(logits[None], scale_factor=2, mode="trilinear")[0].argmax(0)
    np.testing.assert_array_equal(made.result[0], want.numpy())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bands_fit_together_to_the_bit(axis):
    rng = np.random.default_rng(4)
    for other, count in product({0, 1, 2} - {axis}, (2, 3, 7)):
        geometry = random_geometry(rng)
        while len(geometry.shape) == 2:
            geometry = random_geometry(rng)
        logits, plan = fields("noise", rng, (3, *geometry.shape)), plan_of(3)
        for made, options in ((LabelMap, {}), (LabelMap, {"nearest": True}), (ChanceMap, {})):
            whole, parts = (made(geometry, plan, axis=axis, **options) for _ in range(2))
            fill(whole, logits, rng)
            for band in bands(geometry, other, count):
                fill(parts, logits, rng, band)
            # Softmax itself rounds differently in vectors and in what remains of them.
            np.testing.assert_allclose(parts.result, whole.result, atol=1e-6 if made is ChanceMap else 0)


def test_nearest_labels_are_decided_before_they_are_moved():
    rng = np.random.default_rng(5)
    for _ in range(40):
        geometry = random_geometry(rng)
        logits = fields("noise", rng, (4, *geometry.shape))
        made = LabelMap(geometry, plan_of(4), axis=len(geometry.shape) - 1, nearest=True)
        fill(made, logits, rng)
        small = logits.argmax(0)[None].to(torch.uint8)
        orders = (0,) * len(geometry.shape)
        want = resize(small, geometry.cropped_shape, orders, corners=geometry.corners)
        np.testing.assert_array_equal(made.result, pasted(want, geometry))


@pytest.mark.parametrize("regions", [False, True])
def test_probabilities_are_those_of_interpolated_logits(regions, monkeypatch):
    rng = np.random.default_rng(6)
    monkeypatch.setattr(restore, "_VALUES", 300)
    for _ in range(30):
        geometry, plan = random_geometry(rng), plan_of(3, regions)
        logits = fields("noise", rng, (3, *geometry.shape))
        made = ChanceMap(geometry, plan, axis=int(rng.integers(len(geometry.shape))))
        fill(made, logits, rng)
        fine = plain(logits, geometry, made.axis)
        want = np.zeros(made.result.shape, np.float32)
        want[0] = 0 if regions else 1  # outside of the crop
        view = oriented(want, geometry.axes, geometry.flips)[(slice(None), *(slice(*b) for b in geometry.box))]
        view[:] = fine.sigmoid() if regions else fine.softmax(0)
        np.testing.assert_allclose(made.result, want, atol=1e-6)


def test_a_class_that_wins_at_no_corner_may_win_between_them():
    logits = torch.tensor([[4.0, 0.0], [3.5, 3.5], [0.0, 4.0]])
    made = LabelMap(between((2, 1), (4, 1)), plan_of(3))
    made.writer().add(logits[:, :, None])
    assert made.result[0, :, 0].tolist() == [0, 1, 1, 2]


def test_slabs_of_another_grid_are_refused():
    writer = LabelMap(between((4, 5, 6), (8, 5, 6)), plan_of(2)).writer()
    with pytest.raises(ShapeError, match=r"slab of logits \(2, 3, 5, 5\): the prepared grid after rows is \[5, 6\]"):
        writer.add(torch.zeros(2, 3, 5, 5))
