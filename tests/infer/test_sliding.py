"""The window stitches what the network says, and nothing else: identities, parity with MONAI, mirrors, slices."""

from itertools import pairwise

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from unetkit.errors import ShapeError
from unetkit.infer.sliding import WindowSettings, gaussian, pad_to, positions, sliding_window


def pointwise(dims: int, channels: int = 2, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, outputs, 1)
    return conv.requires_grad_(False)


def local(dims: int, kernel: int = 3) -> nn.Module:
    torch.manual_seed(1)
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 2, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.Tanh()).requires_grad_(False)


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (160, 96, 0.5, [0, 32, 64]),
        (96, 96, 0.5, [0]),
        (50, 96, 0.5, [0]),
        (97, 96, 0.5, [0, 1]),
        (100, 10, 0.0, list(range(0, 100, 10))),
        (21, 16, 0.75, [0, 2, 5]),
    ],
)
def test_positions(length, window, overlap, expected):
    assert positions(length, window, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_windows_cover_every_voxel_with_at_least_the_asked_overlap(overlap):
    for length in range(8, 60):
        starts = positions(length, 8, overlap)
        steps = [b - a for a, b in pairwise(starts)]
        assert (starts[0], starts[-1]) == (0, length - 8)
        assert all(0 < step <= max(1, -(-8 * (1 - overlap) // 1)) for step in steps)


@pytest.mark.parametrize(("shape", "patch"), [((23, 17, 30), (8, 8, 16)), ((5, 40, 9), (8, 16, 16))])
@pytest.mark.parametrize("settings", [WindowSettings(), WindowSettings(0.25, 4), WindowSettings(0.5, 3, (0, 1, 2))])
def test_a_pointwise_network_gives_what_it_gives_on_the_whole_image(shape, patch, settings):
    image = torch.randn(2, *shape)
    network = pointwise(3)
    torch.testing.assert_close(sliding_window(network, image, patch, 3, settings), network(image[None])[0])


@pytest.mark.parametrize("shape", [(33, 50), (7, 50)])
def test_the_same_in_2d(shape):
    image, network = torch.randn(2, *shape), pointwise(2)
    got = sliding_window(network, image, (16, 16), 3, WindowSettings(0.5, 5, (1,)))
    torch.testing.assert_close(got, network(image[None])[0])


def test_one_window_is_the_network_itself_bit_for_bit():
    image, network = torch.randn(1, 16, 12), local(2)
    assert torch.equal(sliding_window(network, image, (16, 12), 2, WindowSettings()), network(image[None])[0])


@pytest.mark.parametrize("batch", [1, 4])
def test_equals_monai_where_windows_coincide(batch):
    # odd sides: there the largest weight is 1 in MONAI too, so that both floors are the same
    image, network = torch.randn(1, 29, 22, 15), local(3)
    want = sliding_window_inference(
        image[None], (15, 15, 15), batch, network, overlap=0.5, mode="gaussian", sigma_scale=0.125
    )
    got = sliding_window(network, image, (15, 15, 15), 2, WindowSettings(0.5, batch))
    torch.testing.assert_close(got, want[0], atol=1e-5, rtol=1e-5)


def test_the_batch_does_not_change_the_result():
    image, network = torch.randn(1, 20, 25, 18), local(3)
    one, many = (sliding_window(network, image, (8, 8, 8), 2, WindowSettings(0.5, n)) for n in (1, 7))
    torch.testing.assert_close(one, many)


def test_mirrored_networks_see_mirrored_images():
    """Averaged over mirrors, the prediction of a mirrored image is the mirrored prediction."""
    image, network = torch.randn(1, 20, 18, 22), local(3)
    settings = WindowSettings(0.5, 2, (0, 2))
    got = sliding_window(network, image.flip(1, 3), (8, 8, 8), 2, settings).flip(1, 3)
    torch.testing.assert_close(got, sliding_window(network, image, (8, 8, 8), 2, settings), atol=1e-5, rtol=1e-4)
    plain = sliding_window(network, image, (8, 8, 8), 2, WindowSettings())
    assert (plain - got).abs().max() > 1e-2


def test_slices_of_a_volume_are_independent():
    volume, network = torch.randn(1, 5, 20, 31), local(2)
    got = sliding_window(network, volume, (16, 16), 2, WindowSettings(0.5, 7))
    for i in range(5):
        want = sliding_window(network, volume[:, i], (16, 16), 2, WindowSettings())
        torch.testing.assert_close(got[:, i], want)


def test_weights_are_symmetric_floored_and_kept():
    weights = gaussian((16, 9), torch.device("cpu"))
    assert weights.max() == 1
    assert weights.min() == pytest.approx(1e-3)
    assert torch.equal(weights, weights.flip(0, 1))
    assert gaussian((16, 9), torch.device("cpu")) is weights


def test_padding_is_symmetric_and_undone():
    image = torch.randn(2, 5, 9)
    padded, inner = pad_to(image, (8, 4))
    assert padded.shape == (2, 8, 9)
    assert torch.equal(padded[(slice(None), *inner)], image)
    assert inner[0] == slice(1, 6)
    assert padded.abs().sum().item() == pytest.approx(image.abs().sum().item(), rel=1e-5)


def test_deep_supervision_gives_its_finest_output():
    class Two(nn.Module):
        def forward(self, x):
            return x * 2, x[..., ::2]

    image = torch.randn(1, 20, 20)
    torch.testing.assert_close(sliding_window(Two(), image, (8, 8), 1, WindowSettings()), image * 2)


def test_bf16_stays_close_and_sums_in_fp32():
    image, network = torch.randn(1, 20, 20), local(2)
    settings = WindowSettings(dtype=torch.bfloat16, channels_last=True)
    got = sliding_window(network, image, (8, 8), 2, settings)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, sliding_window(network, image, (8, 8), 2, WindowSettings()), atol=0.03, rtol=0)


def test_dims_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"image of shape \(1, 8, 8\) for a 3D network"):
        sliding_window(pointwise(3), torch.zeros(1, 8, 8), (8, 8, 8), 3, WindowSettings())
