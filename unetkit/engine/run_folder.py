"""The folder of a run: `runs/NAME/` with recipe, origins, plan, split, log, checkpoints and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unetkit.data.splits import Split
from unetkit.errors import CheckpointError, RecipeError
from unetkit.plan.plan import Plan
from unetkit.recipe.merge import recipe_from_json
from unetkit.recipe.schema import Recipe

RECIPE, ORIGINS, PLAN, SPLIT = "recipe.yaml", "origins.json", "plan.json", "split.json"


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files of a run that are not checkpoints or measurements."""

    path: Path

    def write(self, recipe: Recipe, origins: Mapping[str, str], plan: Plan, split: Split) -> None:
        """Write what the run depends on. Raises RecipeError if the folder cannot be written."""
        self._write(PLAN, json.dumps(plan.to_json(), indent=1))
        self._write(SPLIT, json.dumps(split.to_json(), indent=1))
        self._write(ORIGINS, json.dumps(dict(origins), indent=1))
        # last: a folder that has it has all
        self._write(RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    def read(self) -> tuple[Recipe, dict[str, str], Plan, Split]:
        """Return recipe, origins, plan and split. Raises CheckpointError if this is not a run's folder."""
        if not (self.path / RECIPE).is_file():
            raise CheckpointError(
                f"{self.path}: not a run that can be resumed (no {RECIPE}); give the folder that training printed"
            )
        try:
            recipe = recipe_from_json(yaml.safe_load((self.path / RECIPE).read_text(encoding="utf-8")))
            plan = Plan.from_json(self._json(PLAN))
            return recipe, self._json(ORIGINS), plan, Split.from_json(self._json(SPLIT))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error}); train anew") from error

    def remove_if_empty(self) -> None:
        """Take the folder away again, and the one around it, if nothing was written."""
        with suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()

    def _json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path / name)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def new_run_folder(recipe: Recipe, title: str) -> RunFolder:
    """Make a folder below `recipe.output`: `recipe.name`, or `title` and the first number that is free.

    Raises RecipeError if it exists already or cannot be made or written.
    """
    home = Path(recipe.output).expanduser()
    if recipe.name is not None:
        if Path(recipe.name).name != recipe.name:
            raise RecipeError(f"name={recipe.name}: give a plain folder name; the place is set with output=FOLDER")
        return RunFolder(_make(home / recipe.name, recipe.name))
    number = 1
    while True:
        try:
            return RunFolder(_make(home / f"{title}_{number:03d}", None))
        except FileExistsError:
            number += 1


def _make(path: Path, name: str | None) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
        probe = path / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except FileExistsError as error:
        if not path.is_dir():
            raise _unwritable(path, error) from error
        if name is None:
            raise
        raise RecipeError(
            f"name={name}: the run {path} exists already; choose another name, or go on with resume={path}"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"output: cannot write {path} ({error.strerror or error}); choose another folder with output=FOLDER"
    )
