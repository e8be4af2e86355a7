"""Where the recipes lie: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from unetkit.errors import RecipeError, nearest


def recipes_folder() -> Path:
    """Return the folder of the recipes that come with unetkit.

    Raises RecipeError if the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    # In the wheel they lie inside the package, in a checkout (editable install too) beside it.
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise RecipeError("the recipes of unetkit are missing from this installation; install it again with pip")


_BENCH = "bench_"


def list_recipes() -> dict[str, Path]:
    """Return the recipes of trainings that come with unetkit, by name."""
    return {name: path for name, path in _shipped().items() if not name.startswith(_BENCH)}


def list_benches() -> dict[str, Path]:
    """Return the recipes of benchmarks that come with unetkit, by name."""
    return {name: path for name, path in _shipped().items() if name.startswith(_BENCH)}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by name, or by path if it ends in .yaml or .yml.

    Raises RecipeError with the nearest name if there is none.
    """
    return _find(name, list_recipes())


def find_bench(name: str) -> Path:
    """Return the file of a benchmark's recipe, as `find_recipe` does."""
    return _find(name, list_benches())


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(recipes_folder().rglob("*.yaml"))}


def _find(name: str, known: Mapping[str, Path]) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(os.path.expanduser(name))
        if not path.is_file():
            raise RecipeError(f"recipe={name}: there is no such file")
        return path
    if name not in known:
        raise RecipeError(f"recipe={name}: no such recipe{nearest(name, known)}; there are {', '.join(known)}")
    return known[name]
