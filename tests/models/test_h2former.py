"""H2Former: weights of a ResNet, gates per channel, windows by the patch, options that contradict each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet

from unetkit.errors import ModelError
from unetkit.models.h2former import GatedMlp
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "blocks": 1}


def small(**options: Any) -> torch.nn.Module:
    """Return an H2Former with few blocks for 32 x 32 images of 3 channels."""
    torch.manual_seed(1)
    return create_model("h2former", in_channels=3, patch_size=(32, 32), **SMALL, **options).eval()


@torch.no_grad()
def test_stages_with_a_file_of_timm_equal_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = ResNet(BasicBlock, SMALL["depths"]).eval()
    for norm in (m for m in resnet.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean)  # not what every fresh norm holds
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    encoder = small(weights=str(tmp_path / "resnet.safetensors")).encoder
    ours = theirs = torch.randn(2, 64, 8, 8)
    # the stem has the same weights, but keeps the resolution
    assert torch.equal(encoder.stem[0].weight, resnet.conv1.weight)
    assert torch.equal(encoder.stem[1].running_mean, resnet.bn1.running_mean)
    for stage, other in zip(encoder.stages, (getattr(resnet, f"layer{i + 1}") for i in range(4)), strict=True):
        ours, theirs = stage(ours), other(theirs)
        torch.testing.assert_close(ours, theirs)


def test_its_own_weights_load(tmp_path: Path) -> None:
    source = small()
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    torch.manual_seed(2)
    again = create_model(
        "h2former", in_channels=3, patch_size=(32, 32), weights=str(tmp_path / "own.safetensors"), **SMALL
    ).eval()
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(image), source(image))


@torch.no_grad()
def test_gates_know_channels_but_as_published_mixes_them_with_places() -> None:
    """A channel's gate depends on its average alone, so that moving voxels about moves the result and no more."""
    x, order = torch.randn(2, 4, 4, 8), torch.randperm(16)

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1, 2)[:, order].unflatten(1, (4, 4))

    for scrambled in (False, True):
        torch.manual_seed(0)
        mlp = GatedMlp(8, 16, scrambled)
        assert torch.allclose(mlp(moved(x)), moved(mlp(x)), atol=1e-6) is not scrambled


def test_windows_are_a_sixteenth_of_each_side() -> None:
    model = create_model("h2former", patch_size=(64, 32), **SMALL)
    assert {tuple(attention[0].attn.window) for attention in model.encoder.attention} == {(4, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (3, 4, 6)}, r"depths \(3, 4, 6\) and heads \(2, 4, 8, 16\) need one entry per level"),
        ({"heads": (3, 4, 8, 16)}, "64 channels at level 0 do not divide into 3 heads"),
        ({"blocks": 0}, "blocks=0: each level needs an attention block"),
        ({"drop_path": 1.5}, "drop_path 1.5 is a probability"),
        ({"weights": "a.safetensors", "pretrained": True}, "contradict"),
        ({"patch_size": (32, 32, 32), "pretrained": True}, "pretrained weights are 2D"),
        ({"block": 2}, "did you mean 'blocks'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("h2former", **{"patch_size": (32, 32), **options})
    assert "\n" not in str(refused.value)
