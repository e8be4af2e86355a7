"""Functions out of the files of public projects, without importing the packages around them."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def find(folder: Path | None, name: str, holding: str = "") -> Path:
    """Return the first file of this name below the folder, with `holding` somewhere in its path."""
    found = sorted(p for p in folder.rglob(name) if holding in str(p)) if folder else []
    if not found:
        raise FileNotFoundError(f"{name} of {holding or 'the peer'} is not below --peers")
    return found[0]


def functions(path: Path, *names: str) -> Callable[..., Any]:
    """Run only the definitions of these functions of a file; return the last of them."""
    import einops
    import torch
    from torch.nn import functional

    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope = {"torch": torch, "math": math, "F": functional, "rearrange": einops.rearrange, "repeat": einops.repeat}
    exec(compile(tree, str(path), "exec"), scope)
    return scope[names[-1]]


def module(folder: Path | None, name: str, installed: str, holding: str) -> ModuleType:
    """Import a file that needs nothing but torch, or the installed module."""
    if importlib.util.find_spec(installed.split(".")[0]):
        return importlib.import_module(installed)
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), find(folder, name, holding))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
