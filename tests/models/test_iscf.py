"""Inter-Scale Context Fusion: what the reference spends for nothing, options that contradict each other."""

from typing import Any

import parity
import pytest
import torch

from unetkit.errors import ModelError
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"widths": (8, 16, 32), "depths": (1, 1, 1)}


def test_as_published_works_more_for_the_same_values() -> None:
    published, ours = (create_model("iscf", patch_size=(32, 32), as_published=p, **SMALL).eval() for p in (True, False))
    state = published.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    image = torch.randn(2, 1, 32, 32)
    assert torch.equal(published(image), ours(image))
    assert parity.gflops(published, image.shape) > 1.1 * parity.gflops(ours, image.shape)


def test_what_is_more_never_learns() -> None:
    published = create_model("iscf", patch_size=(32, 32), as_published=True, **SMALL)
    ours = create_model("iscf", patch_size=(32, 32), **SMALL)
    published(torch.randn(2, 1, 32, 32)).square().mean().backward()
    dead = {name for name, parameter in published.named_parameters() if parameter.grad is None}
    assert dead == {*published.state_dict()} - {*ours.state_dict()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 2)}, r"widths \(128, 320, 512\) and depths \(2, 2\) need one entry per level"),
        ({"widths": (9, 16, 32)}, r"widths \(9, 16, 32\) must be even"),
        ({"width": (8, 16, 32)}, "did you mean 'widths'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        create_model("iscf", patch_size=(32, 32), **options)
    assert "\n" not in str(refused.value)
