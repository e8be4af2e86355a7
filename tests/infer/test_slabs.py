"""Slabs of logits: the same sums whatever is held at a time, few at a time, and what happens when memory runs out."""

from itertools import product
from math import prod

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetkit.data.preprocess import Geometry
from unetkit.data.restore import Band
from unetkit.errors import DataError
from unetkit.infer.folder import predict_files
from unetkit.infer.forward import Forward, WindowSettings
from unetkit.infer.load import load
from unetkit.infer.shortage import explained_shortage, free_memory
from unetkit.infer.slabs import Layout, choose_layout, segment_slabs
from unetkit.infer.sliding import gaussian, pad_to, positions, sliding_window, window_slabs
from unetkit.types import Volume

CPU = torch.device("cpu")


class Local(nn.Module):
    """A convolution that counts its batches, and cannot take more than `room` entries at once."""

    def __init__(self, dims: int = 3, room: int = 1000, error: Exception | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 3, 3, padding=1).requires_grad_(False)
        self.room, self.error, self.batches = room, error or torch.OutOfMemoryError("CUDA out of memory"), []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise self.error
        self.batches.append(len(x))
        return self.conv(x).tanh()


def by_whole_sums(network: nn.Module, image: Tensor, patch: tuple[int, ...], overlap: float) -> Tensor:
    """Every window into sums of the whole image, one after the other."""
    padded, inner = pad_to(image, patch)
    total, norm = torch.zeros(3, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    weights = gaussian(patch, CPU)
    for start in product(*(positions(n, p, overlap) for n, p in zip(padded.shape[1:], patch, strict=True))):
        box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        total[(slice(None), *box)].addcmul_(network(padded[(slice(None), *box)][None])[0], weights)
        norm[box] += weights
    return (total / norm)[(slice(None), *inner)]


def joined(slabs) -> Tensor:
    return torch.cat([slab.clone() for slab in slabs], 1)


@pytest.mark.parametrize("shape", [(21, 13, 9), (5, 40, 9), (3, 4, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_logits_are_those_of_whole_sums_bit_for_bit(shape, overlap):
    image, network = torch.randn(1, *shape), Local()
    want = by_whole_sums(network, image, (8, 6, 8), overlap)
    assert torch.equal(sliding_window(network, image, (8, 6, 8), 3, WindowSettings(overlap)), want)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_and_any_region_give_the_same_logits(axis):
    image, network, settings = torch.randn(1, 21, 13, 9), Local(), WindowSettings(0.5, 3)
    want = by_whole_sums(network, image, (8, 6, 10), 0.5)
    got = joined(window_slabs(network, image, (8, 6, 10), 3, settings, axis=axis))
    torch.testing.assert_close(got.movedim(1, axis + 1), want, atol=1e-6, rtol=1e-5)
    region = (slice(0, 21), slice(4, 11), slice(2, 9))
    got = joined(window_slabs(network, image, (8, 6, 10), 3, settings, axis=axis, region=region))
    torch.testing.assert_close(got.movedim(1, axis + 1), want[(slice(None), *region)], atol=1e-6, rtol=1e-5)


def test_rows_come_as_soon_as_no_window_reaches_them():
    network = Local()
    slabs = window_slabs(network, torch.randn(1, 20, 8, 8), (8, 8, 8), 3, WindowSettings())
    seen = [(slab.shape[1], len(network.batches)) for slab in slabs]
    assert seen == [(4, 1), (4, 2), (4, 3), (8, 4)]


def test_mirrored_copies_share_a_batch_and_change_nothing():
    image, patch = torch.randn(1, 20, 18, 22), (8, 8, 8)
    one_by_one = sliding_window(Local(), image, patch, 3, WindowSettings(0.5, 1, (0, 1, 2)))
    for batch, sizes in ((3, {3, 2}), (8, {8}), (20, {16, 8})):
        network = Local()
        got = sliding_window(network, image, patch, 3, WindowSettings(0.5, batch, (0, 1, 2)))
        torch.testing.assert_close(got, one_by_one, atol=1e-6, rtol=1e-5)
        assert set(network.batches) <= sizes


@pytest.mark.parametrize("error", [None, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")])
def test_a_batch_that_does_not_fit_is_halved_and_stays_so(error):
    image, network = torch.randn(1, 20, 18, 22), Local(room=3, error=error)
    got = sliding_window(network, image, (8, 8, 8), 3, WindowSettings(0.5, 8, (0, 1, 2)))
    want = sliding_window(Local(), image, (8, 8, 8), 3, WindowSettings(0.5, 8, (0, 1, 2)))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert set(network.batches) == {2}


def test_one_window_that_does_not_fit_and_other_errors_are_raised():
    forward = Forward(Local(room=0), CPU, 0, WindowSettings(0.5, 4))
    with pytest.raises(torch.OutOfMemoryError):
        forward(torch.zeros(4, 1, 8, 8, 8))
    broken = Forward(Local(room=0, error=RuntimeError("a bug")), CPU, 0, WindowSettings(0.5, 4))
    with pytest.raises(RuntimeError, match="a bug"):
        broken(torch.zeros(4, 1, 8, 8, 8))


def geometry(shape: tuple[int, ...]) -> Geometry:
    dims = len(shape)
    size = tuple(2 * n for n in shape)
    ones, axes = (1.0,) * dims, tuple(range(dims))
    return Geometry(size, ones, axes, (False,) * dims, tuple((0, n) for n in size), shape, ones)


def test_rows_run_along_the_axis_with_most_windows():
    assert choose_layout(geometry((40, 512, 512)), (40, 192, 160), 4, 1e15).axis == 2
    assert choose_layout(geometry((600, 512, 512)), (128, 128, 128), 4, 1e15).axis == 0
    assert choose_layout(geometry((5, 512, 512)), (1, 64, 64), 4, 1e15).axis == 0  # slices
    assert choose_layout(geometry((600, 512, 512)), (128, 128, 128), 4, 1e15).bands == (None,)


def test_bands_keep_what_is_held_at_a_time_within_the_limit():
    """What is held does not grow with the number of classes, as far as windows are small enough."""
    shape, window, limit = (30, 64, 20), (8, 8, 8), 300_000
    for outputs in (3, 12, 24):
        layout = choose_layout(geometry(shape), window, 4 * outputs, limit)
        assert layout.axis == 1
        largest = max(
            4 * outputs * 8 * prod(n for a, n in enumerate(part(band, shape)) if a != layout.axis)
            for band in layout.bands
        )
        assert largest <= 1.25 * limit  # neighbouring bands share a row or two


def test_bands_change_no_label(make_plan):
    grid, window, stream = geometry((30, 24, 20)), (8, 8, 8), streamed(Local(), (30, 24, 20), (8, 8, 8))
    layouts = [choose_layout(grid, window, 12, most) for most in (1e15, 20_000)]
    assert [len(layout.bands) for layout in layouts] == [1, 3]
    whole = segment_slabs(stream, layouts[0], grid, make_plan(), probabilities=True)
    for beside in (False, True):
        cut = segment_slabs(stream, layouts[1], grid, make_plan(), probabilities=True, beside=beside)
        assert np.array_equal(whole.encoded, cut.encoded)
        np.testing.assert_allclose(whole.chances, cut.chances, atol=1e-6)


def part(band: Band | None, shape: tuple[int, ...]) -> list[int]:
    sizes = list(shape)
    if band is not None:
        sizes[band.axis] = band.region.stop - band.region.start
    return sizes


def streamed(network: nn.Module, shape: tuple[int, ...], window: tuple[int, ...]):
    torch.manual_seed(0)
    image = torch.randn(1, *shape)

    def stream(axis: int, band: Band | None):
        region = None
        if band is not None:
            region = tuple(band.region if a == band.axis else slice(0, n) for a, n in enumerate(shape))
        return window_slabs(network, image, window, 3, WindowSettings(), axis=axis, region=region)

    return stream


def test_probabilities_beyond_the_memory_are_refused_before_any_work(make_plan):
    """Linux would promise the memory, and kill the process that takes it."""
    huge = geometry((1 << 20, 1 << 10, 1 << 10))
    with pytest.raises(MemoryError):
        segment_slabs(
            streamed(Local(), (8, 8, 8), (8, 8, 8)), Layout(0, (None,)), huge, make_plan(), probabilities=True
        )


@pytest.mark.parametrize(
    "full",
    [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("... DefaultCPUAllocator: can't allocate memory: ...")],
)
def test_running_out_of_memory_is_one_line(full):
    said = r"^p1: not enough (GPU )?memory for this case; do less$"
    with pytest.raises(DataError, match=said), explained_shortage("p1", "do less"):
        raise full


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a bug"), explained_shortage("p1", "do less"):
        raise RuntimeError("a bug")
    assert free_memory(CPU) > 0


def refuse_the_spike(network: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Stand in for torch's allocator: one case of the folder cannot be computed."""
    if args[0].max() > 30:
        raise RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate")


def test_a_case_too_large_for_the_memory_does_not_take_others_along(save_run, make_plan, tmp_path):
    predictor = load(save_run(make_plan()), "cpu")
    (tmp_path / "in").mkdir()
    for name, spike in (("a", 0), ("b", 1e6), ("c", 0)):
        image = np.random.default_rng(0).normal(size=(14, 12, 12)).astype(np.float32)
        image[5, 5, 5] += spike
        nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "in" / f"{name}.nii.gz")
    predictor.network.register_forward_pre_hook(refuse_the_spike)
    got = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert [f["case"] for f in got["failed"]] == ["b"]
    assert got["failed"][0]["error"].startswith("b: not enough memory for this case; close other programs")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_a_segmentation_holds_what_was_asked_for(save_run, make_plan):
    predictor = load(save_run(make_plan()), "cpu")
    volume = Volume(np.random.default_rng(0).normal(size=(1, 26, 22, 11)).astype(np.float32), (1.0, 1.0, 2.0))
    prepared = predictor.prepare(volume, "x")
    assert prepared.id == "x"
    plain, both = predictor.segment(prepared), predictor.segment(prepared, probabilities=True)
    assert plain.chances is None
    assert np.array_equal(plain.encoded, both.encoded)
    assert np.array_equal(both.chances.argmax(0), plain.encoded[0])
