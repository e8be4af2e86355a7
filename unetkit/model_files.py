"""The files in which models are registered, and what stands in them, read as text: importing them would take seconds.

Models of other packages are found by the entry points `unetkit.models` of what is installed; each names a module.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from unetkit.errors import ModelError

GROUP = "unetkit.models"
# Of a model, before the colon in the first line of its file.
_LONGEST_NAME = 60


def model_files() -> Iterator[tuple[Path, str]]:
    """Yield the files that register models, with their modules: those of unetkit, then those of installed packages.

    Raises ModelError for an installed package whose module is not there.
    """
    for path in sorted((Path(__file__).parent / "models").glob("[!_]*.py")):
        yield path, f"{GROUP}.{path.stem}"
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.module):
        yield _file_of(entry), entry.module


def _file_of(entry: EntryPoint) -> Path:
    """Return the file of an entry point's module, found without importing the packages around it."""
    top, *inner = entry.module.split(".")
    found: list[Path] = []
    if (spec := importlib.util.find_spec(top)) is not None:
        places = spec.submodule_search_locations or ()
        found = [Path(place, *inner).with_suffix(".py") for place in places] if inner else [Path(spec.origin or "")]
    if files := [path for path in found if path.is_file()]:
        return files[0]
    owner = f"package {entry.dist.name}" if entry.dist else "an installed package"
    raise ModelError(
        f"{owner}: its entry point {GROUP}, {entry.name} = {entry.value}, names no module with a source file; correct "
        "it in its pyproject.toml, or uninstall the package"
    )


@dataclass(frozen=True)
class Written:
    """A registered builder as it stands in its file; `of` is the model whose variant it is."""

    name: str
    module: str
    new: str
    of: str | None
    fields: dict[str, Any]
    options: dict[str, Any]
    takes_more: bool


def read_builders(path: Path, module: str) -> Iterator[Written]:
    """Yield the registered builders of a file. Raises SyntaxError if it is no Python."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # a default may be a constant of its file
    assigned = [n for n in tree.body if isinstance(n, ast.Assign)]
    constants = {t.id: n.value for n in assigned for t in n.targets if isinstance(t, ast.Name)}
    new = what_is_new(ast.get_docstring(tree))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for of, fields in filter(None, map(_literal_info, node.decorator_list)):
                options = _literal_options(node, constants)
                yield Written(node.name, module, new, of, fields, options, node.args.kwarg is not None)


def what_is_new(docstring: str | None) -> str:
    """Return the first sentence of a model file without the name before it and the paper behind it."""
    line = " ".join((docstring or "").strip().partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)])\.(?=\s|$)", line)[0]
    sentence = re.sub(r"\s*\([^()]*(?:arXiv|doi)[^()]*\)", "", sentence, flags=re.IGNORECASE)
    # only a name stands before a colon so early
    name, colon, rest = sentence.partition(": ")
    return (rest if colon and len(name) < _LONGEST_NAME else sentence).removesuffix(".")


def _literal_info(decorator: ast.expr) -> tuple[str | None, dict[str, Any]] | None:
    """Evaluate `register(ModelInfo(...))` or `variant(other, ...)` written with literals; None for anything else.

    Returns the name of the other model, if any, and the fields.
    """
    name = getattr(decorator.func, "id", "") if isinstance(decorator, ast.Call) else ""
    if not (isinstance(decorator, ast.Call) and name in ("register", "variant") and decorator.args):
        return None
    of, call = (None, decorator.args[0]) if name == "register" else (getattr(decorator.args[0], "id", ""), decorator)
    if not isinstance(call, ast.Call):
        return None
    return of, {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}


def _literal_options(node: ast.FunctionDef, constants: Mapping[str, ast.expr]) -> dict[str, Any]:
    def value(default: ast.expr | None) -> Any:
        named = constants.get(default.id) if isinstance(default, ast.Name) else default
        try:
            return ast.literal_eval(named or default) if default else None
        except ValueError:
            # A default that is no literal is shown as it is written.
            return ast.unparse(default) if default else None

    return {a.arg: value(d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)}
