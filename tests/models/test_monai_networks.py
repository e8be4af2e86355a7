"""UNETR and Swin UNETR are MONAI's own: same weights, same output; and what their weight files may look like."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from safetensors.torch import save_file

from unetkit.errors import ModelError
from unetkit.registry import create_model

SMALL_VIT: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4, "feature_size": 8}
SMALL_SWIN: dict[str, Any] = {"feature_size": 12, "depths": (1, 2, 1, 1)}


def same(ours: torch.nn.Module, theirs: torch.nn.Module, image: torch.Tensor) -> None:
    """Copy the weights over and compare the outputs."""
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), theirs.eval()(image))


@pytest.mark.parametrize("size", [(32, 48), (32, 16, 32)])
def test_unetr_equals_monai(size: tuple[int, ...]) -> None:
    theirs = UNETR(2, 3, size, proj_type="perceptron", spatial_dims=len(size), **SMALL_VIT)
    ours = create_model("unetr", in_channels=2, num_classes=3, patch_size=size, **SMALL_VIT)
    same(ours, theirs, torch.randn(1, 2, *size))


@pytest.mark.parametrize("use_v2", [False, True])
def test_swin_unetr_equals_monai(use_v2: bool) -> None:
    """In 2D; the fingerprint of a small 3D network is MONAI's too."""
    theirs = SwinUNETR(2, 3, spatial_dims=2, use_v2=use_v2, **SMALL_SWIN)
    ours = create_model("swin_unetr", in_channels=2, num_classes=3, patch_size=(64, 96), use_v2=use_v2, **SMALL_SWIN)
    same(ours, theirs, torch.randn(1, 2, 64, 96))


def test_self_supervised_encoder_loads_as_in_monai(tmp_path: Path) -> None:
    source = SwinUNETR(1, 3, spatial_dims=2, **SMALL_SWIN)
    state = {
        f"module.{key.removeprefix('swinViT.')}".replace(".linear", ".fc"): tensor
        for key, tensor in source.state_dict().items()
        if key.startswith("swinViT.")
    }
    theirs = SwinUNETR(1, 2, spatial_dims=2, **SMALL_SWIN)
    theirs.load_from({"state_dict": state})
    save_file(state, tmp_path / "encoder.safetensors")
    path = str(tmp_path / "encoder.safetensors")
    ours = create_model("swin_unetr", patch_size=(64, 64), weights=path, **SMALL_SWIN)
    wanted, got = theirs.swinViT.state_dict(), ours.swinViT.state_dict()
    assert [key for key in wanted if not torch.equal(wanted[key], got[key])] == []


def test_own_weights_load(tmp_path: Path) -> None:
    source = create_model("unetr", patch_size=(32, 32), **SMALL_VIT)
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    again = create_model("unetr", patch_size=(32, 32), weights=str(tmp_path / "own.safetensors"), **SMALL_VIT)
    same(again, source, torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unetr", {"proj_type": "linear"}, "choose one of perceptron, conv"),
        ("unetr", {"num_heads": 7}, "hidden_size=768 does not divide into 7 heads"),
        ("unetr", {"dropout_rate": 1.5}, "dropout_rate 1.5 is a probability"),
        ("swin_unetr", {"feature_size": 20}, "feature_size=20 must be a multiple of 12"),
        ("swin_unetr", {"depths": (2, 2)}, "need four entries each"),
        ("swin_unetr", {"drop_path": -1.0}, "drop_path -1.0 is a probability"),
    ],
)
def test_contradictory_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model(name, patch_size=(64, 64), **options)
