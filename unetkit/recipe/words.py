"""Reading YAML and `key=value` words into plain trees."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from unetkit.errors import RecipeError

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, only true and false are booleans, and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # a list as a key: YAML itself refuses that, with the line
                continue
            if key.value in seen:
                raise RecipeError(f"line {key.start_mark.line + 1}: the key '{key.value}' stands twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 as PyYAML reads it takes 1e-4 for a text, as it lacks a point, and `no` (Norway) for false.
_NUMBER = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\.inf|\.nan)$")
_FLOAT, _BOOL = "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"
_kept = {
    first: [(tag, rule) for tag, rule in rules if tag not in (_FLOAT, _BOOL)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _kept
_Loader.add_implicit_resolver(_BOOL, re.compile("^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(_FLOAT, _NUMBER, list("-+0123456789."))


def read_yaml(text: str, where: str) -> Any:
    """Read one YAML document. Raises RecipeError, naming `where` and the line, if it is malformed."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{where}{line}: this is not valid YAML ({error.problem})") from error
    except yaml.YAMLError as error:  # a control character, of which no line is known
        raise RecipeError(f"{where}: this is not valid YAML ({str(error).splitlines()[0]})") from error
    except RecipeError as error:
        raise RecipeError(f"{where}, {error}") from error


def parse_words(words: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Turn `a.b=value` words into {"a.b": value} and a list of faults; values are read as YAML."""
    values: dict[str, Any] = {}
    faults = []
    for word in words:
        key, equals, text = word.partition("=")
        bare = key.lstrip("+~-")
        # Forms of hydra (+key, ~key) and of other command lines (--key).
        if bare != key:
            faults.append(f"{word}: write {bare}={text or 'VALUE'} (no '{key[: len(key) - len(bare)]}' before a key)")
        elif not equals or not key:
            faults.append(f"{word}: expected key=value, for example train.epochs=50")
        elif key in values:
            faults.append(f"{word}: '{key}' is given twice; keep one")
        else:
            try:
                values[key] = read_yaml(text, key) if text.strip() else None
            except RecipeError as error:
                faults.append(str(error))
    return values, faults


def nest(values: dict[str, Any]) -> Tree:
    """Turn {"a.b": 1} into {"a": {"b": 1}}."""
    tree: Tree = {}
    for key, value in values.items():
        *path, last = key.split(".")
        # Two words may meet in one branch (train=5 train.epochs=3): the second would be lost.
        branch = tree
        for part in path:
            inner = branch.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"{key}: '{part}' has the value {inner!r} and cannot hold '{last}' as well")
            branch = inner
        branch[last] = value
    return tree


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Turn {"a": {"b": 1}} into {"a.b": 1}; empty mappings stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, dict) and value else {path: value})
    return flat
