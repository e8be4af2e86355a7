"""nnFormer, UNETR++, MISSFormer, DAE-Former: what `as_published` and `masked` change, options that contradict."""

from typing import Any

import pytest
import torch

from unetkit.errors import ModelError, ShapeError
from unetkit.registry import create_model

SMALL: dict[str, dict[str, Any]] = {
    "nnformer": {"embed_dim": 12, "heads": [1, 2, 4, 8], "patch_size": (64, 64)},
    "unetr_plus_plus": {"widths": [4, 8, 16, 32, 64], "patch_size": (64, 64)},
    "missformer": {"widths": [8, 16, 40, 64], "patch_size": (64, 64)},
    "daeformer": {"widths": [16, 24, 32], "patch_size": (64, 64)},
}


def small(name: str, **options: Any) -> torch.nn.Module:
    """Return a narrow network for 64 x 64 images of 3 channels."""
    torch.manual_seed(0)
    return create_model(name, **{"in_channels": 3, "num_classes": 2, **SMALL[name], **options}).eval()


def image(channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(name: str, *settings: dict[str, Any]) -> list[torch.Tensor]:
    """Return what networks with the same weights make of one image, one network per setting."""
    weights = small(name).state_dict()
    found = []
    for options in settings:
        model = small(name, **options)
        model.load_state_dict(weights, strict=False)
        out = model(image())
        found.append(out[0] if isinstance(out, tuple) else out)
    return found


@pytest.mark.parametrize("name", ["missformer", "daeformer"])
def test_what_the_reference_does_besides_leaves_the_output_alone(name: str) -> None:
    ours, published = outputs(name, {}, {"as_published": True})
    assert torch.equal(ours, published)


def test_what_the_reference_of_unetrpp_does_wrong_changes_the_output() -> None:
    ours, published = outputs("unetr_plus_plus", {}, {"as_published": True})
    assert not torch.equal(ours, published)


def test_offsets_that_the_reference_of_nnformer_confuses() -> None:
    # two axes are numbered rightly
    ours, published = outputs("nnformer", {}, {"as_published": True})
    assert torch.equal(ours, published)
    size = {"patch_size": (32, 32, 32)}
    ours, published = (small("nnformer", **size, as_published=how).skips[0].attn.index for how in (False, True))
    assert (len(ours.unique()), len(published.unique())) == (7**3, 115)  # of 4 x 4 x 4 tokens


def test_a_mask_matters_only_where_windows_are_shifted() -> None:
    masked, free = outputs("nnformer", {}, {"masked": False})
    assert not torch.allclose(masked, free)
    # one window per level sees everything anyway
    masked, free = (small("nnformer", windows=[16, 8, 4, 2], masked=how)(image()) for how in (True, False))
    assert torch.equal(masked, free)


def test_nnformer_keeps_its_output_with_lower_heads() -> None:
    one, many = outputs("nnformer", {}, {"deep_supervision": True})
    assert torch.equal(one, many)
    assert [tuple(o.shape[2:]) for o in small("nnformer", deep_supervision=True)(image())] == [
        (64, 64),
        (32, 32),
        (16, 16),
    ]


def test_nnformer_takes_odd_sides_between_levels() -> None:
    model = small("nnformer", patch_size=(28, 36), patch=[4, 4], windows=[3, 2, 1, 1], steps=[2, 2, 1])
    assert model(torch.zeros(1, 3, 28, 36)).shape == (1, 2, 28, 36)


@pytest.mark.parametrize("name", ["missformer", "daeformer"])
def test_a_grey_image_is_shown_as_a_coloured_one(name: str) -> None:
    grey = small(name, in_channels=1)
    colour = small(name)
    colour.load_state_dict(grey.state_dict())
    x = image(1)
    with torch.no_grad():
        assert torch.equal(grey(x), colour(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("nnformer", {"heads": [1, 2, 4]}, r"need one entry per level"),
        ("nnformer", {"heads": [5, 2, 4, 8]}, r"12 channels at level 0 do not divide into 5 heads"),
        ("nnformer", {"decoder_heads": [1, 5, 4]}, r"24 channels at level 1 do not divide into 5 heads"),
        ("nnformer", {"windows": [4, 0, 8, 4]}, r"are 1 or more"),
        ("nnformer", {"steps": [3, 2, 2]}, r"steps \(3, 2, 2\) are 1 or 2"),
        ("nnformer", {"patch": [8, 8]}, r"patch \(8, 8\) has sides 1, 2 or 4"),
        ("nnformer", {"drop_path": 1.0}, r"drop_path 1.0 is a probability"),
        ("unetr_plus_plus", {"fusion": "summ"}, r"did you mean 'sum'"),
        ("unetr_plus_plus", {"heads": 3}, r"width 8 does not divide into 3 heads"),
        ("unetr_plus_plus", {"steps": [2, 2]}, r"give a step and a depth"),
        ("unetr_plus_plus", {"dropout": 1.0}, r"dropout 1.0 is a probability"),
        ("missformer", {"heads": [1, 2, 5]}, r"one entry per level"),
        ("missformer", {"heads": [1, 3, 5, 8]}, r"16 channels at level [01] do not divide into 3 heads"),
        ("missformer", {"widths": [8, 20, 40, 64]}, r"must be multiples of the first"),
        ("missformer", {"bridges": -1}, r"bridges=-1"),
        ("daeformer", {"channel_heads": 3}, r"16 channels at level 0 do not divide into 3 heads"),
        ("daeformer", {"depths": [2, 2]}, r"need one entry per level"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        small(name, **options)
    assert "\n" not in str(caught.value)


def test_patches_too_small_for_the_levels_are_refused() -> None:
    with pytest.raises(ShapeError, match="leave nothing"):
        small("nnformer", patch_size=(16, 16), steps=[2, 2, 2], patch=[4, 4])
