"""The folder of a run: `runs/NAME/` with recipe, origins, plan, split, log, checkpoints and report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unetkit.data.formats.files import make_folder, remove_empty
from unetkit.data.splits import Split
from unetkit.errors import CheckpointError, DataError, RecipeError, UnetkitError
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.plan import Plan
from unetkit.recipe.merge import recipe_from_json
from unetkit.recipe.schema import Recipe

RECIPE, ORIGINS, PLAN, SPLIT = "recipe.yaml", "origins.json", "plan.json", "split.json"
STUDY, FINGERPRINT = "study.json", "fingerprint.json"
"""In the folder of a study, whose runs lie two levels below: STUDY/CONFIGURATION/fold_N."""


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files of a run that are not checkpoints or measurements."""

    path: Path
    made: tuple[Path, ...] = ()
    """Folders that were made for a new run, innermost first."""

    @property
    def in_study(self) -> bool:
        """Whether the run is one of several that a study holds together."""
        return (self.path.resolve().parent.parent / STUDY).is_file()

    def write(self, recipe: Recipe, origins: Mapping[str, str], plan: Plan, split: Split) -> None:
        """Write what the run depends on. Raises RecipeError if the folder cannot be written."""
        self._write(PLAN, json.dumps(plan.to_json(), indent=1))
        self._write(SPLIT, json.dumps(split.to_json(), indent=1))
        # last: a folder that has it has all
        self.write_recipe(recipe, origins)

    def write_recipe(self, recipe: Recipe, origins: Mapping[str, str]) -> None:
        """Write a recipe and where its values are from. Raises RecipeError if the folder cannot be written."""
        self._write(ORIGINS, json.dumps(dict(origins), indent=1))
        self._write(RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    def read(self) -> tuple[Recipe, dict[str, str], Plan, Split]:
        """Return recipe, origins, plan and split. Raises CheckpointError if this is not a run's folder."""
        recipe, origins = self.read_recipe()
        with self._undamaged():
            return recipe, origins, Plan.from_json(self._json(PLAN)), Split.from_json(self._json(SPLIT))

    def read_recipe(self) -> tuple[Recipe, dict[str, str]]:
        """Return recipe and origins. Raises CheckpointError if this is not the folder of a run or study."""
        if not (self.path / RECIPE).is_file():
            raise CheckpointError(
                f"{self.path}: not a run that can be resumed (no {RECIPE}); give the folder that training printed"
            )
        with self._undamaged():
            recipe = recipe_from_json(yaml.safe_load((self.path / RECIPE).read_text(encoding="utf-8")))
            return recipe, dict(self._json(ORIGINS))

    def write_fingerprint(self, tree: Mapping[str, Any]) -> None:
        """Write what was measured of the training cases. Raises RecipeError if the folder cannot be written."""
        self._write(FINGERPRINT, json.dumps(tree, indent=1))

    def fingerprint(self) -> dict[str, Any]:
        """Return what was measured, by the run's own file or that of its study; nothing if neither is whole."""
        for folder in (self.path, self.path.resolve().parent.parent):
            with suppress(OSError, ValueError, DataError):
                tree = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
                return Fingerprint.from_json(tree).to_json()
        return {}

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, yaml.YAMLError, UnetkitError) as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"{self.path}: a damaged run ({text}); restore its files, or train anew") from error

    @contextmanager
    def kept_on_success(self) -> Iterator[None]:
        """Take what was made and written for a new run away again if the block, which only prepares, fails."""
        try:
            yield
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Take away what was written for a new run, and the folders made for it; an older run stays as it is."""
        if not self.made:
            return
        with suppress(OSError):
            for name in (RECIPE, ORIGINS, PLAN, SPLIT, FINGERPRINT, STUDY):
                (self.path / name).unlink(missing_ok=True)
        remove_empty(self.made)

    def _json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> None:
        # beside its target, so that the replacement is one step of the same file system
        temporary = self.path / f".{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise _unwritable(self.path, error) from error


def new_run_folder(recipe: Recipe, title: str) -> RunFolder:
    """Make a folder below `recipe.output`: `recipe.name`, or `title` and the first number that is free.

    Raises RecipeError if it exists already or cannot be made or written.
    """
    home = Path(os.path.expanduser(recipe.output))
    if recipe.name is not None:
        if Path(recipe.name).name != recipe.name or recipe.name == "..":
            raise RecipeError(f"name={recipe.name}: give a plain folder name; the place is set with output=FOLDER")
        return _make(home / recipe.name, recipe.name)
    number = 1
    # mkdir decides, not a look beforehand: two runs may start at the same moment
    while True:
        try:
            return _make(home / f"{title}_{number:03d}", None)
        except FileExistsError:
            number += 1


def _make(path: Path, name: str | None) -> RunFolder:
    made: tuple[Path, ...] = ()
    try:
        made = make_folder(path.parent)
        path.mkdir()
        made = (path, *made)
        # a folder that can be made is not always one that can be written in (quotas, odd file systems)
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
        remove_empty(made)
        raise _unwritable(path, error) from error
    return RunFolder(path, made)


def _unwritable(path: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"output: cannot write {path} ({error.strerror or error}); choose another folder with output=FOLDER"
    )
