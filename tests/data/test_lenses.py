"""Multi-lens distortion against numbers of the published code, and as an augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unetkit.data.augment import Sample, augment
from unetkit.data.augment_draw import Draw, draw_sample
from unetkit.data.augment_table import Lenses, Table
from unetkit.data.lenses import Lens, draw_lenses, lens_sources

SIDE = 64


def published_lenses() -> list[Lens]:
    """Draw four lenses in the order of AICAN-Research/DRU-Net@edbdbf6, from numpy's old generator."""
    rng = np.random.RandomState(0)
    across, down = rng.randint(0, SIDE, 4), rng.randint(0, SIDE, 4)
    drawn = [(rng.randint(10, 20), rng.uniform(-0.4, 0.4)) for _ in range(4)]
    return [
        Lens(((y + 0.5) / SIDE, (x + 0.5) / SIDE), radius, strength)
        for x, y, (radius, strength) in zip(across, down, drawn, strict=True)
    ]


def test_equals_the_published_distortion() -> None:
    rows, columns = np.indices((SIDE, SIDE))
    image = ((3 * rows + 2 * columns)[..., None] * [1, 2, 3] % 256).astype(np.uint8)
    bent = image[tuple(lens_sources((SIDE, SIDE), published_lenses()))]
    assert bent.sum() == 1608158
    assert (bent != image).any(-1).sum() == 1085
    for place, values in {(10, 10): [50, 100, 150], (32, 40): [176, 96, 16], (50, 20): [190, 124, 58]}.items():
        assert bent[place].tolist() == values


@pytest.mark.parametrize("size", [(20, 24), (12, 14, 16)])
def test_image_and_label_move_together(size: tuple[int, ...]) -> None:
    label = torch.randint(0, 4, (1, *size), dtype=torch.uint8)
    lenses = (Lens((0.5,) * len(size), 6, 0.4), Lens((0.2,) * len(size), 5, -0.4))
    sample = Sample(label.float(), label, Draw(0, lenses=lenses), (0,) * len(size), "case")
    image, target = augment([sample], Table(), torch.device("cpu"))
    assert torch.equal(image[0], target[0].float())
    assert not torch.equal(target[0], label)
    corner = (0, *(-1,) * len(size))
    assert target[0][corner] == label[corner], "outside of the lenses nothing moves"


def test_lenses_are_drawn_within_their_ranges() -> None:
    table = Lenses(p=1.0, count=50, radius=(4, 6), strength=0.4)
    lenses = draw_lenses(table, 2, np.random.default_rng(0))
    assert {lens.radius for lens in lenses} == {4, 5, 6}
    assert all(abs(lens.strength) <= 0.4 for lens in lenses)
    assert draw_sample(Table(lenses=replace(table, p=0.0)), 2, 1, np.random.default_rng(0)).lenses == ()
    assert len(draw_sample(Table(lenses=table), 2, 1, np.random.default_rng(0)).lenses) == 50
