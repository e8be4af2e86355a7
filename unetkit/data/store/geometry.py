"""The way of a prepared case as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from unetkit.data.preprocess import Geometry

# The header serves for writing files only, and the source is wherever the file lies today.
_LEFT_OUT = ("affine", "source", "header")


def geometry_to_json(geometry: Geometry) -> dict[str, Any]:
    """Return everything but source and header as plain lists and numbers."""
    tree = {field.name: getattr(geometry, field.name) for field in fields(geometry) if field.name not in _LEFT_OUT}
    return tree | {"affine": None if geometry.affine is None else geometry.affine.tolist()}


def geometry_from_json(tree: Mapping[str, Any], source: str) -> Geometry:
    """Return the geometry that `geometry_to_json` wrote, of the file that lies at `source` now."""
    known = {name: _frozen(value) for name, value in tree.items() if name != "affine"}
    affine = None if tree["affine"] is None else np.asarray(tree["affine"], np.float64)
    return Geometry(**known, affine=affine, source=source)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
