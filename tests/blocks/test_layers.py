"""Layers: the same call makes 2D and 3D."""

import pytest
import torch
from torch import nn

from unetkit.blocks.layers import UPS, Layers


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("up", UPS)
def test_up_doubles_the_size_and_says_its_channels(dims, up):
    layers = Layers(dims, up=up)
    got = layers.up(4, 6)(torch.zeros(2, 4, *(3,) * dims))
    assert got.shape == (2, layers.up_channels(4, 6), *(6,) * dims)


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("up", UPS)
def test_up_takes_a_stride_per_axis(up, stride):
    got = Layers(3, up=up).up(4, 6, stride)(torch.zeros(2, 4, 3, 3, 3))
    assert got.shape[2:] == tuple(3 * s for s in stride)


def test_conv_keeps_the_size_unless_unpadded():
    x = torch.zeros(1, 2, 8, 8, 8)
    assert Layers(3).conv(2, 5, (1, 3, 5))(x).shape == (1, 5, 8, 8, 8)
    assert Layers(3, padded=False).conv(2, 5, 3)(x).shape == (1, 5, 6, 6, 6)


def test_group_norm_falls_back_to_one_group():
    layers = Layers(2, norm="group")
    assert (layers.norm(16).num_groups, layers.norm(4).num_groups) == (8, 1)


def test_but_changes_a_copy():
    layers = Layers(2, norm="instance", bias=False)
    other = layers.but(norm="none", bias=True)
    assert isinstance(other.norm(3), torch.nn.Identity)
    assert isinstance(layers.norm(3), torch.nn.InstanceNorm2d)
    assert (layers.bias, other.bias) == (False, True)


def test_options_of_norm_and_activation_reach_the_layer():
    layers = Layers(2, norm=("batch", {"eps": 1e-3}), act=("leaky_relu", {"negative_slope": 0.3}))
    assert (layers.norm(2).eps, layers.act().negative_slope) == (1e-3, 0.3)


@pytest.mark.parametrize(("channels", "groups", "dilation"), [(13, 13, 7), (10, 10, 5), (16, 16, 2), (16, 4, 2)])
def test_dilated_groups_have_the_gradient_of_torchs_convolution(channels: int, groups: int, dilation: int) -> None:
    torch.manual_seed(0)
    options = {"padding": dilation, "dilation": dilation, "groups": groups}
    ours, theirs = Layers(2).conv(channels, channels, **options), nn.Conv2d(channels, channels, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    ours = ours.to(memory_format=torch.channels_last)  # as in training
    for size in (16, 32):
        x = torch.randn(4, channels, size, size).to(memory_format=torch.channels_last)
        theirs(x).square().sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            ours(x.bfloat16()).float().square().sum().backward()
    # where memory is left unset, the values are anything from right to infinite
    assert (ours.weight.grad - theirs.weight.grad).norm() < 0.02 * theirs.weight.grad.norm()


@pytest.mark.parametrize(("kernel", "stride", "depth"), [(3, 1, 2), (5, 1, 4), (7, 4, 7), (3, 1, 3), (3, 2, 4)])
def test_shallow_volumes_have_the_gradient_of_torchs_convolution(kernel: int, stride: int, depth: int) -> None:
    torch.manual_seed(0)
    ours = Layers(3).conv(8, 8, kernel, stride=stride)
    theirs = nn.Conv3d(8, 8, kernel, stride, padding=kernel // 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, depth, 4, 4)
    want = theirs(x)
    want.square().sum().backward()
    torch.testing.assert_close(ours(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        ours(x).float().square().sum().backward()
    # where memory is left unset, the values are anything from right to infinite
    assert (ours.weight.grad - theirs.weight.grad).norm() < 0.02 * theirs.weight.grad.norm()
