"""Barlow-Swin: biases that the reference never trains, grey images, options that contradict each other."""

from typing import Any

import pytest
import torch

from unetkit.errors import ModelError
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"embed_dim": 16, "heads": 2, "decoder_widths": (16, 8, 8, 4)}


def small(channels: int = 3, **options: Any) -> torch.nn.Module:
    """Return a small network for 64 x 64 images."""
    return create_model("barlow_swin", in_channels=channels, patch_size=(64, 64), **SMALL, **options).eval()


def test_as_published_position_biases_stay() -> None:
    published, ours = small(as_published=True), small()
    frozen = {name for name, parameter in published.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in ours.state_dict() if name.endswith("relative_position_bias_table")}
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_one_channel_is_three_equal_ones() -> None:
    grey, colour = small(1), small(3)
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(grey(image), colour(image.repeat(1, 3, 1, 1)))


def test_positions_are_those_of_the_built_size() -> None:
    square, wide = small(), create_model("barlow_swin", patch_size=(64, 128), **SMALL)
    assert square.encoder.position_embeddings.shape == (16, 16, 16)
    assert wide.encoder.position_embeddings.shape == (16, 32, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 7}, "embed_dim=96 does not divide into 7 heads"),
        ({"window": 0}, "window=0: give the side of a window"),
        ({"decoder_widths": (64, 32)}, r"decoder_widths \(64, 32\): give four"),
        ({"dropout": 1.0}, "dropout 1.0 is a probability"),
        ({"decoder_width": 64}, "did you mean 'decoder_widths'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("barlow_swin", patch_size=(64, 64), **options)
    assert "\n" not in str(refused.value)
