"""What is special of SineNet: fields that go on periodically, waves, the carried map."""

import pytest
import torch
from torch import Tensor, nn

from unetkit.blocks.layers import CubicUp
from unetkit.errors import ModelError, ShapeError
from unetkit.models.sinenet import GROWTH, Wave
from unetkit.registry import create_model

STEP = 16  # what pooling leaves at its place, a field may be moved by


def field() -> Tensor:
    return torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small(**options: object) -> nn.Module:
    asked = {"in_channels": 3, "num_classes": 3, "patch_size": (32, 48), "waves": 1, "width": 4, "growth": 1.5}
    return create_model("sinenet", **{**asked, **options}).eval().double()


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_a_periodic_field_has_no_border(padding: str) -> None:
    model, x = small(padding=padding), field()
    moved = model(x.roll((STEP, -STEP), (2, 3)))
    assert torch.allclose(moved, model(x).roll((STEP, -STEP), (2, 3)), atol=1e-9) == (padding == "circular")


def test_periodic_enlarging_is_that_of_a_tiled_field() -> None:
    x = field()
    tiled = nn.functional.interpolate(x.tile(1, 1, 3, 3), scale_factor=2, mode="bicubic")
    torch.testing.assert_close(CubicUp(2)(x), tiled[..., 64:128, 96:192])


def test_each_wave_adds_to_the_field_it_gets() -> None:
    model, x = small(waves=3), field()
    waves = [m for m in model if isinstance(m, Wave)]
    assert len(waves) == 3
    for wave in waves:
        for step in wave.up[-1:]:
            for p in step.parameters():
                nn.init.zeros_(p)
    stem, head = model[0], model[-1]
    torch.testing.assert_close(model(x), head(stem(x)))


def test_the_carried_map_widens_every_way_down_but_the_first() -> None:
    dual, tangled = (next(m for m in small(dual=flag) if isinstance(m, Wave)) for flag in (True, False))
    more = [a.first[0][0].in_channels - b.first[0][0].in_channels for a, b in zip(dual.down, tangled.down, strict=True)]
    assert more == [0, 4, 4, 4]


@pytest.mark.parametrize("waves", sorted(GROWTH))
def test_published_growth_gives_about_as_many_parameters(waves: int) -> None:
    with torch.device("meta"):
        width = 128 if waves == 1 else 64  # the single wave of the paper is a comparison four times as large
        model = create_model("sinenet", in_channels=12, num_classes=3, patch_size=(64, 64), waves=waves, width=width)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(135e6 if waves == 1 else 35.5e6, rel=0.01)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"waves": 3}, ModelError, "waves=3 has no published growth; give growth, or one of 8, 6, 4, 2, 1"),
        ({"waves": 0}, ModelError, "give numbers from 1"),
        ({"padding": "circle"}, ModelError, r"did you mean 'circular'"),
        ({"patch_size": (16, 16), "padding": "circular"}, ShapeError, r"\(32, 32\)"),
        ({"patch_size": (32, 32, 32)}, ModelError, "sinenet is 2D only"),
    ],
)
def test_refusals(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        create_model("sinenet", **{"patch_size": (64, 64), **options})
    assert "\n" not in str(caught.value)
