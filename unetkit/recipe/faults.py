"""Saying all that is wrong with a recipe, one line a fault, with the nearest right name."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from unetkit.errors import nearest

_NAMES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list such as [1, 2]",
    "tuple_type": "a list such as [64, 64]",
    "dict_type": "a mapping such as {name: value}",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "none_required": "null",
}


def all_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a schema, sections left out."""
    for name, field in schema.model_fields.items():
        inner = section_of(field.annotation)
        if inner:
            yield from all_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class that a field holds, or None for a plain value."""
    if isinstance(annotation, types.UnionType):
        return next(filter(None, map(section_of, get_args(annotation))), None)
    return annotation if inspect.isclass(annotation) and issubclass(annotation, BaseModel) else None


def explain_faults(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """Return one line for each key at fault: what was given, what is allowed."""
    # A union reports a fault for each member; the user made one, so they are joined by key.
    keys = list(all_keys(schema))
    grouped: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(_key(detail, keys), []).append(detail)
    return [_explain(key, details, keys) for key, details in grouped.items()]


def _key(detail: ErrorDetails, keys: list[str]) -> str:
    """The dotted key; union members and list positions that pydantic appends are cut off."""
    parts = [str(p) for p in detail["loc"]]
    # pydantic adds the union member or list position tried; the longest part that is a key is what the user wrote.
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in keys:
            return ".".join(parts[:n])
    return ".".join(p for p in parts if p.isidentifier())


def _explain(key: str, details: list[ErrorDetails], keys: list[str]) -> str:
    first = details[0]
    kind, given = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{key}'{_nearest_key(key, keys)}"
    if kind == "missing":
        return f"{key or first['loc'][-1]} is missing; give {first['loc'][-1]}=VALUE"
    if kind == "value_error":
        return f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
    allowed = " or ".join(dict.fromkeys(_allowed(d) for d in details))
    choices = [c for d in details for c in _choices(d)]
    hint = nearest(str(given), choices) if choices else ""
    return f"{key}={_short(given)}: expected {allowed}{hint}"


def _nearest_key(key: str, keys: list[str]) -> str:
    same_end = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    # `epochs` can only mean train.epochs: the right name in the wrong section is the commonest slip.
    if len(same_end) == 1:
        return f" (did you mean '{same_end[0]}'?)"
    sections = {k.rsplit(".", n)[0] for k in keys for n in range(k.count(".") + 1)}
    return nearest(key, sections) or nearest(key.rsplit(".", 1)[-1], sections)


def _choices(detail: ErrorDetails) -> list[str]:
    text = str(detail.get("ctx", {}).get("expected", "")) if detail["type"] == "literal_error" else ""
    return [part.strip(" '") for part in text.replace(" or ", ",").split(",") if part.strip()]


def _allowed(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        return "one of " + ", ".join(_choices(detail))
    return _NAMES.get(kind, detail["msg"].removeprefix("Input should be ").removeprefix("Value should be "))


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
