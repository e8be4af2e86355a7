"""Att-SwinU-Net: what its two additions do, weights of Swin, options that contradict each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unetkit.errors import ModelError
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"embed_dim": 24, "heads": (1, 2, 4, 8), "window": 4}


def small(name: str = "att_swin_unet", **options: Any) -> torch.nn.Module:
    """Return a small network for 64 x 64 images of 3 channels."""
    torch.manual_seed(0)
    return create_model(name, in_channels=3, patch_size=(64, 64), **SMALL, **options).eval()


def test_without_its_additions_it_is_swin_unet() -> None:
    plain = small(cross_context=False, spatial_attention="none")
    swin = small("swin_unet")
    swin.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(plain(image), swin(image))


def test_as_published_the_spatial_attention_does_nothing() -> None:
    image = torch.randn(1, 3, 64, 64)
    published, without = small(as_published=True), small(spatial_attention="none")
    guided = [small(spatial_attention=how) for how in ("add", "multiply")]
    outputs = []
    for model in (published, without, *guided):
        model.load_state_dict(published.state_dict())
        outputs.append(model(image))
    assert torch.equal(outputs[0], outputs[1])
    assert not any(torch.allclose(outputs[0], output) for output in outputs[2:])


def test_weights_of_swin_unet_load(tmp_path: Path) -> None:
    swin = small("swin_unet")
    save_file(swin.state_dict(), tmp_path / "swin.safetensors")
    model = small(weights=str(tmp_path / "swin.safetensors"))
    own = model.state_dict()
    assert [key for key, tensor in swin.state_dict().items() if not torch.equal(tensor, own[key])] == []


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(ModelError, match=r"spatial_attention='ad' .did you mean 'add'"):
        small(spatial_attention="ad")
    with pytest.raises(ModelError, match="spatial_attention=multiply does nothing"):
        small(spatial_attention="multiply", as_published=True)
