"""One recipe out of defaults, a file and the command line, with the origin of every value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unetkit.errors import RecipeError, nearest
from unetkit.recipe.faults import all_keys, explain_faults
from unetkit.recipe.find import find_recipe
from unetkit.recipe.schema import Recipe
from unetkit.recipe.words import Tree, flatten, nest, parse_words, read_yaml
from unetkit.registry import catalog

# Mappings of the schema whose keys the user invents: given anew they replace the old ones as a whole.
_WHOLE = ("data.classes", "data.generator")


@dataclass(frozen=True)
class Resolved:
    """A checked recipe; `origins` maps each dotted key to "default", "recipe NAME" or "command line"."""

    recipe: Recipe
    origins: dict[str, str]
    source: str | None = None

    def lines(self) -> list[str]:
        """Return `key = value  # origin`, one line a key."""
        values = flatten_recipe(self.recipe)
        shown = {k: json.dumps(v) for k, v in values.items()}
        # Origins stand in one column, which a few long lists may break but not widen.
        wide = max(len(k) + len(v) for k, v in shown.items() if len(v) < 40) + 3
        return [f"{f'{k} = {v}':<{wide}}  # {self.origins.get(k, 'default')}" for k, v in shown.items()]


def flatten_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return every key of a recipe, dotted, with JSON values."""
    tree = json.loads(recipe.model_dump_json())
    flat = flatten(tree)
    for key in _WHOLE:
        # Class names are no keys of the schema: shown as one value, not as data.classes.liver.
        inner = {k: v for k, v in flat.items() if k.startswith(key + ".")}
        if inner:
            flat = {k: v for k, v in flat.items() if k not in inner}
            section, name = key.split(".")
            flat[key] = tree[section][name]
    return flat


AUTO = "auto"
"""The recipe of a command line that names none."""


def resolve(words: Iterable[str] = (), recipe: str | None = None) -> Resolved:
    """Read a recipe (name or path) and apply `key=value` words to it.

    Raises RecipeError that lists all faults at once.
    """
    values, faults = parse_words(words)
    name = values.pop("recipe", recipe)
    tree, origins = {}, {}
    if name is not None:
        path = find_recipe(str(name))
        tree = _read_file(path, f"recipe {path.stem}")
        origins = dict.fromkeys(_whole_keys(flatten(tree)), f"recipe {path.stem}")
    try:
        over = nest(values)
    except RecipeError as error:
        raise _refusal([*faults, str(error)]) from error
    # A word may give a whole section: train.optimizer={name: adamw} settles the origin of the keys within.
    origins |= dict.fromkeys(_whole_keys(flatten(over)), "command line")
    return Resolved(_check(merged(tree, over), faults), origins, None if name is None else str(name))


def recipe_from_json(tree: Tree) -> Recipe:
    """Rebuild a stored recipe. Raises RecipeError listing what no longer fits the schema."""
    return _check(_mapping(tree, "the stored recipe"), [])


FREE = ("train.device", "train.workers")
"""Keys that may differ when a run is gone on with, as they change no result."""


def resumed(recipe: Recipe, changes: Mapping[str, Any], free: Sequence[str] = FREE) -> Recipe:
    """Return a stored recipe with some of its `free` keys (dotted) changed. Raises RecipeError for any other key."""
    if fixed := [f"{key}={value}" for key, value in changes.items() if key not in free]:
        raise RecipeError(
            f"resume goes on with the run's own recipe, but for {', '.join(free)}; drop {' '.join(fixed)}, or train "
            "anew without resume"
        )
    if not changes:
        return recipe
    tree = json.loads(recipe.model_dump_json())
    return recipe_from_json(merged(tree, nest(dict(changes))))


def _read_file(path: Path, where: str) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: {path} cannot be read ({error}); give a text file in UTF-8") from error
    tree = read_yaml(text, where)
    return {} if tree is None else _mapping(tree, where)


def _mapping(tree: Any, where: str) -> Tree:
    if not isinstance(tree, dict):
        raise RecipeError(f"{where}: expected a mapping of sections such as 'train: {{epochs: 50}}'")
    return tree


def merged(below: Tree, above: Tree, prefix: str = "") -> Tree:
    """Return keys with others over them, section by section."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        if isinstance(value, dict) and isinstance(inner, dict) and f"{prefix}{key}" not in _WHOLE:
            value = merged(inner, value, f"{prefix}{key}.")
        found[key] = value
    return found


def _whole_keys(flat: dict[str, Any]) -> list[str]:
    return [next((w for w in _WHOLE if key.startswith(w + ".")), key) for key in flat]


def _check(tree: Tree, faults: list[str]) -> Recipe:
    faults = list(faults)
    recipe = None
    try:
        # By way of JSON, where strict mode knows numbers, texts and lists only: a YAML tuple or date is none of them.
        recipe = Recipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        faults += explain_faults(error, Recipe)
    # Options of a model are known to the registry only, read without importing torch.
    section = tree.get("model", {})
    if isinstance(section, dict):
        faults += _model_faults(section)
    if faults or recipe is None:
        raise _refusal(faults)
    return recipe


def _model_faults(section: Tree) -> list[str]:
    """What is wrong with the model's name, and with options that its builder does not have."""
    models, name = catalog(), section.get("name", Recipe.model_fields["model"].default.name)
    if not isinstance(name, str):
        return []
    if name not in models:
        hint = nearest(name, models) or "; `unetkit list models` names them"
        return [f"model.name={name}: there is no such model{hint}"]
    options = models[name].options
    known = ", ".join(options) or "none"
    return [
        f"unknown key 'model.{key}'{nearest(key, ['name', *options])}; options of {name}: {known}"
        for key in section
        if key != "name" and key not in options
    ]


def _refusal(faults: list[str]) -> RecipeError:
    many = "" if len(faults) == 1 else f"{len(faults)} faults: "
    return RecipeError(many + "; ".join(faults), faults)


def known_keys() -> list[str]:
    """Return every dotted key of the schema."""
    return list(all_keys(Recipe))
