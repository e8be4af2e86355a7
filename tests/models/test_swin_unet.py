"""Swin-Unet: weights of Swin in encoder and decoder, sizes beyond the reference, options that contradict each other."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from unetkit.errors import ModelError, ShapeError
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"embed_dim": 24, "heads": (1, 2, 4, 8)}


@pytest.fixture(scope="module")
def swin() -> torch.nn.Module:
    """Return a small Swin of timm with random weights."""
    torch.manual_seed(0)
    tag = "swin_tiny_patch4_window7_224"
    return timm.create_model(tag, embed_dim=24, depths=(2, 2, 2, 2), num_heads=SMALL["heads"]).eval()


@pytest.fixture
def weights(swin: torch.nn.Module, tmp_path: Path) -> str:
    """Return a file of its weights."""
    save_file(swin.state_dict(), tmp_path / "swin.safetensors")
    return str(tmp_path / "swin.safetensors")


def test_encoder_with_weights_of_timm_equals_timm(swin: torch.nn.Module, weights: str) -> None:
    model = create_model("swin_unet", in_channels=3, patch_size=(224, 224), weights=weights, **SMALL).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        x = model.patch_embed(image)
        for stage in model.layers:
            x = stage(x)
        torch.testing.assert_close(model.norm(x), swin.forward_features(image), rtol=1e-4, atol=1e-4)


def test_decoder_blocks_start_as_those_of_the_encoder(weights: str) -> None:
    model = create_model("swin_unet", in_channels=1, patch_size=(224, 224), weights=weights, **SMALL)
    for level in range(3):
        down, up = model.layers[level].blocks.state_dict(), model.layers_up[3 - level].blocks.state_dict()
        assert all(torch.equal(down[key], up[key]) for key in down)


def test_its_own_weights_and_those_of_the_reference_load(tmp_path: Path) -> None:
    model = create_model("swin_unet", patch_size=(64, 64), **SMALL).eval()
    path, other = tmp_path / "own.safetensors", tmp_path / "reference.safetensors"
    save_file(model.state_dict(), path)
    save_file({f"swin_unet.{key}": tensor for key, tensor in model.state_dict().items()}, other)
    image = torch.randn(1, 1, 64, 64)
    for file in (path, other):
        again = create_model("swin_unet", patch_size=(64, 64), weights=str(file), **SMALL).eval()
        assert torch.equal(again(image), model(image))


def test_one_channel_is_three_equal_ones() -> None:
    grey = create_model("swin_unet", in_channels=1, patch_size=(64, 64), **SMALL).eval()
    colour = create_model("swin_unet", in_channels=3, patch_size=(64, 64), **SMALL).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(grey(image), colour(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("size", [(96, 160), (32, 64, 32)])
def test_other_sizes_than_the_built_one(size: tuple[int, ...]) -> None:
    model = create_model("swin_unet", in_channels=2, patch_size=(64,) * len(size), **SMALL).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 2, *size)).shape == (1, 2, *size)


def test_pretrained_weights_are_2d() -> None:
    with pytest.raises(ModelError, match=r"pretrained weights are 2D, patch_size \(32, 32, 32\)"):
        create_model("swin_unet", patch_size=(32, 32, 32), pretrained=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 2)}, r"depths \(2, 2\) and heads \(3, 6, 12, 24\)"),
        ({"heads": (5, 6, 12, 24)}, "96 channels at level 0 do not divide into 5 heads"),
        ({"drop_path": 1.0}, "drop_path 1.0 is a probability"),
        ({"weights": "a.safetensors", "pretrained": True}, "contradict"),
        ({"weights": "missing.safetensors"}, "there is no such file"),
        ({"weights": "swin.pth"}, "give a .safetensors or .npz file"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model("swin_unet", patch_size=(64, 64), **options)


def test_more_levels_need_larger_multiples() -> None:
    with pytest.raises(ShapeError, match="multiples of 64; the next legal size is"):
        create_model("swin_unet", patch_size=(96, 96), depths=(1,) * 5, heads=(3, 3, 3, 3, 3))


def test_weights_that_are_damaged_or_of_another_model_are_refused(tmp_path: Path) -> None:
    other, damaged = tmp_path / "other.safetensors", tmp_path / "damaged.npz"
    save_file({"conv.weight": torch.zeros(3)}, other)
    damaged.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ModelError, match="none of the weights fits"):
        create_model("swin_unet", patch_size=(64, 64), weights=str(other), **SMALL)
    with pytest.raises(ModelError, match=r"damaged\.npz: cannot be read"):
        create_model("swin_unet", patch_size=(64, 64), weights=str(damaged), **SMALL)
