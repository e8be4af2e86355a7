"""Encoder, decoder and heads, apart from any published network."""

import pytest
import torch
from torch import nn

from unetkit.blocks import ConvStack, Decoder, Encoder, Heads, Layers, UNet
from unetkit.blocks.unet import crop, match
from unetkit.errors import ShapeError

WIDTHS = (4, 6, 8)


def network(dims=2, **heads):
    layers = Layers(dims)
    encoder = Encoder(layers, 1, WIDTHS, ConvStack)
    decoder = Decoder(layers, WIDTHS, encoder.strides, ConvStack)
    return UNet(encoder, decoder, Heads(layers, decoder.channels, 2, **heads)).eval()


@pytest.mark.parametrize("size", [(16, 16), (17, 19), (8, 9, 10)])
def test_any_size_comes_back(size):
    assert network(len(size))(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_anisotropic_strides():
    layers = Layers(3, norm="instance")
    encoder = Encoder(layers, 1, WIDTHS, ConvStack, strides=[1, (1, 2, 2), 2], pool=False)
    decoder = Decoder(layers, WIDTHS, encoder.strides, ConvStack)
    x = torch.randn(1, 1, 4, 8, 8)
    assert [m.shape[2:] for m in encoder(x)] == [(4, 8, 8), (4, 4, 4), (2, 2, 2)]
    assert decoder(encoder(x))[0].shape == (1, 4, 4, 8, 8)


def test_a_single_level_has_its_head_on_the_encoder():
    layers = Layers(2)
    encoder = Encoder(layers, 1, (4,), ConvStack)
    model = UNet(encoder, Decoder(layers, (4,), encoder.strides, ConvStack), Heads(layers, (4,), 3))
    assert model(torch.randn(2, 1, 5, 5)).shape == (2, 3, 5, 5)


def test_match_pads_by_one_and_crops_by_more():
    small, skip = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 5, 4)
    assert match(small, skip)[0].shape == (1, 1, 5, 4)
    assert match(small, torch.ones(1, 1, 8, 8))[1].shape == (1, 1, 4, 4)
    assert match(torch.ones(1, 1, 6, 5), skip)[0].shape == skip.shape


def test_crop_takes_the_centre():
    assert crop(torch.arange(7.0).view(1, 1, 7), [3]).flatten().tolist() == [2, 3, 4]


def test_weights_load_with_and_without_lower_heads():
    plain, supervised = network(), network(deep_supervision=True)
    before = supervised.heads.convs[1].weight.clone()
    supervised.load_state_dict(plain.state_dict())
    assert torch.equal(supervised.heads.convs[1].weight, before)
    plain.load_state_dict(supervised.state_dict())
    with pytest.raises(RuntimeError, match=r"heads\.convs\.0"):
        plain.load_state_dict({k: v for k, v in plain.state_dict().items() if "heads" not in k})


def test_mean_of_heads():
    layers = Layers(2)
    heads = Heads(layers, (3, 3), 2, mean=True)
    maps = [torch.randn(1, 3, 4, 4) for _ in range(2)]
    want = (heads.convs[0](maps[0]) + heads.convs[1](maps[1])) / 2
    torch.testing.assert_close(heads(maps), want)


def test_divisor_is_checked():
    model = UNet(nn.Identity(), nn.Identity(), nn.Identity(), (4, 8))
    with pytest.raises(ShapeError, match=r"next legal size is \(8, 16\)"):
        model(torch.zeros(1, 1, 6, 9))
