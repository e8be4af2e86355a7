"""Focal-UNet: weights of FocalNet from a file and from timm, of the reference, options that contradict each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.focalnet import FocalNet

from unetkit.errors import ModelError
from unetkit.models.focal_unet import FOCAL_TAG
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 1, 2, 1)}


@pytest.fixture(scope="module")
def focalnet() -> torch.nn.Module:
    """Return a small FocalNet of timm with random weights."""
    torch.manual_seed(0)
    model = FocalNet(**SMALL, focal_levels=(3, 3, 3, 3)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases and scales too
    return model


def small(channels: int = 3, **options: Any) -> torch.nn.Module:
    """Return a small Focal-UNet for 64 x 64 images."""
    torch.manual_seed(1)
    return create_model("focal_unet", in_channels=channels, patch_size=(64, 64), **SMALL, **options).eval()


@torch.no_grad()
def assert_same_encoder(model: torch.nn.Module, focalnet: torch.nn.Module) -> None:
    """Compare the deepest map of both."""
    image = torch.randn(1, 3, 64, 64)
    x = model.embed(image)
    for stage in model.layers:
        x = stage(x)
    torch.testing.assert_close(model.norm(x).movedim(-1, 1), focalnet.forward_features(image), rtol=1e-4, atol=1e-4)


def test_encoder_with_a_file_of_timm_equals_timm(focalnet: torch.nn.Module, tmp_path: Path) -> None:
    save_file(focalnet.state_dict(), tmp_path / "focalnet.safetensors")
    assert_same_encoder(small(weights=str(tmp_path / "focalnet.safetensors")), focalnet)


def test_pretrained_takes_the_tag_of_timm(focalnet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {(FOCAL_TAG, True): focalnet}
    monkeypatch.setattr(timm, "create_model", lambda tag, pretrained: known[tag, pretrained])
    assert_same_encoder(small(pretrained=True), focalnet)


def test_its_own_weights_and_those_of_the_reference_load(tmp_path: Path) -> None:
    model = small()
    own, reference = tmp_path / "own.safetensors", tmp_path / "reference.safetensors"
    state = model.state_dict()
    save_file(state, own)
    # as the reference calls them
    names = {key: key.replace(".attn.", ".modulation.") for key in state}
    renamed = {re.sub(r"^up\.", "patch_expand.", names[key]): tensor for key, tensor in state.items()}
    save_file(renamed, reference)
    image = torch.randn(1, 3, 64, 64)
    for file in (own, reference):
        torch.manual_seed(2)
        again = create_model("focal_unet", in_channels=3, patch_size=(64, 64), weights=str(file), **SMALL).eval()
        assert torch.equal(again(image), model(image))


def test_one_channel_is_three_equal_ones() -> None:
    grey, colour = small(1), small(3)
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(grey(image), colour(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (4,)}, r"depths \(4,\) need one entry per level, 2 at least"),
        ({"window": 4}, "window=4: give an odd width"),
        ({"drop_path": 1.5}, "drop_path 1.5 is a probability"),
        ({"weights": "a.safetensors", "pretrained": True}, "contradict"),
        ({"patch_size": (32, 32, 32), "pretrained": True}, "pretrained weights are 2D"),
        ({"context": 2}, "did you mean 'contexts'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("focal_unet", **{"patch_size": (64, 64), **options})
    assert "\n" not in str(refused.value)
