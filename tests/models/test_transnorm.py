"""TransNorm: attention that mixes two projections, what the reference spends for nothing, TransUNet's weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unetkit.blocks.attention import MultiHeadAttention
from unetkit.errors import ModelError
from unetkit.models.transnorm import SpatialAttention
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"resnet_units": (1, 1, 1), "hidden": 24, "mlp": 40, "heads": 3, "layers": 3}


def small(name: str = "transnorm", **options: Any) -> torch.nn.Module:
    """Return a small network for 32 x 32 images of 3 channels."""
    torch.manual_seed(0)
    return create_model(name, in_channels=3, patch_size=(32, 32), **SMALL, **options).eval()


@torch.no_grad()
def test_spatial_features_are_mixed_by_the_same_attention() -> None:
    torch.manual_seed(0)
    spatial, plain = SpatialAttention(24, 3), MultiHeadAttention(24, 3)
    plain.load_state_dict({key: value for key, value in spatial.state_dict().items() if "spatial" not in key})
    tokens = torch.randn(2, 9, 24)
    torch.testing.assert_close(spatial(tokens), plain(tokens))
    # with the values' own projection the features are what the output layer gets to see
    spatial.spatial.load_state_dict(spatial.value.state_dict())
    mixed, seen = spatial.both(tokens)
    torch.testing.assert_close(spatial.out(seen), mixed)


@torch.no_grad()
def test_as_published_carries_projections_that_change_nothing() -> None:
    published, ours = small(as_published=True), small()
    state = published.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(published(image), ours(image))
    more = sum(p.numel() for p in published.parameters()) - sum(p.numel() for p in ours.parameters())
    assert more == 2 * (24 * 24 + 24)  # all layers but the last


def test_weights_of_transunet_fill_the_encoder(tmp_path: Path) -> None:
    base = small("transunet")
    for tensor in base.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    save_file(base.state_dict(), tmp_path / "transunet.safetensors")
    wanted = base.encoder.state_dict()
    got = small(weights=str(tmp_path / "transunet.safetensors")).encoder.state_dict()
    assert [key for key in wanted if not torch.equal(wanted[key], got[key])] == []
    assert [key for key in got if key not in wanted] == [f"blocks.2.attn.spatial.{part}" for part in ("weight", "bias")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resnet_units": ()}, r"n_skip=3, but an encoder with resnet_units \(\) has 0"),
        ({"heads": 7}, "hidden=768 does not divide into 7 heads"),
        ({"decoder_channels": (64, 16)}, "give four"),
        ({**SMALL, "weights": "a.safetensors", "pretrained": True}, "contradict"),
        ({"n_skips": 2}, "did you mean 'n_skip'"),
        ({"patch_size": (32, 32, 32)}, "transnorm is 2D only"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("transnorm", **{"patch_size": (32, 32), **options})
    assert "\n" not in str(refused.value)
    assert "transunet" not in str(refused.value)
