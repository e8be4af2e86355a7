"""Fixtures of the engine's tests."""

import pytest
from tiny_task import PLAN, SquareLoader, dice_on_held_out

from unetkit.engine.fit import Job
from unetkit.recipe.schema import Recipe


@pytest.fixture
def make_job(tmp_path):
    """Return a function (recipe, loader, folder name) -> Job with 7 steps an epoch."""

    def make(recipe: Recipe, loader: SquareLoader | None = None, name: str = "run") -> Job:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Job(recipe, PLAN, folder, loader or SquareLoader(), 7, dice_on_held_out, shown=False)

    return make
