"""What every group of keys of a recipe is, and the kinds of numbers that keys hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Size = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]


class Section(BaseModel):
    """A group of keys: strict, closed, and unchangeable once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
