"""What may be asked of each generator (`data.generator` of a recipe): the keys, their ranges and defaults."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unetkit.errors import RecipeError, nearest
from unetkit.recipe.faults import explain_faults
from unetkit.recipe.section import Fraction, NonNegative, PositiveFloat

Side = Annotated[int, Field(ge=24, le=1024)]


class Render(BaseModel):
    """How a map of tissues becomes an image; shared by all generators."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    seed: Annotated[int, Field(ge=0)] = Field(0, description="the same seed gives the same cases on any machine")
    contrast: Literal["fixed", "random"] = Field(
        "fixed", description="fixed: each tissue keeps its grey (easy); random: drawn anew for each case (hard)"
    )
    jitter: Annotated[float, Field(ge=0.0, le=0.3)] = Field(
        0.05, description="largest change of a fixed grey, as a share of the range"
    )
    min_distance: Annotated[float, Field(ge=0.0, le=0.2)] = Field(
        0.08, description="smallest grey distance between tissues that touch, as a share of the range"
    )
    blur: NonNegative = Field(0.7, description="standard deviation of the blur in pixels (partial volume)")
    bias: NonNegative = Field(0.1, description="strength of the bias field, the standard deviation of its logarithm")
    noise: NonNegative = Field(0.03, description="standard deviation of the noise, as a share of the range")

    @property
    def counts(self) -> tuple[int, int]:
        """Training and test cases where the recipe asks for no number: volumes cost more than pictures."""
        return 16, 6


class Flat(BaseModel):
    """A picture of two dimensions."""

    size: tuple[Side, Side] = Field((256, 256), description="height and width in pixels")
    channels: Literal[1, 3] = Field(1, description="1: grey; 3: colour")

    @property
    def counts(self) -> tuple[int, int]:
        """Training and test cases where the recipe asks for no number."""
        return 48, 16


class Organs(BaseModel):
    """What may vary in a torso besides its form."""

    missing: Fraction = Field(0.15, description="share of the cases without a gallbladder")
    lesion: bool = Field(False, description="a lesion inside the liver, as a class of its own")


class Torso2d(Flat, Organs, Render):
    """A slice through the abdomen."""

    family: Literal["torso"] = Field("torso", description="torso, cells or vessels")


class Cells(Flat, Render):
    """Cells under a microscope, some of which touch."""

    family: Literal["cells"] = Field("cells", description="torso, cells or vessels")
    target: Literal["semantic", "border", "instances"] = Field(
        "semantic",
        description="labels: cell against background, inside and border of cells as two classes, or a number per cell",
    )
    touching: Fraction = Field(0.4, description="share of the cells that get a neighbour which touches them")
    photons: PositiveFloat = Field(200.0, description="photons of a fully bright pixel (Poisson noise)")


class Vessels(Flat, Render):
    """Trees of vessels in a round field of view."""

    family: Literal["vessels"] = Field("vessels", description="torso, cells or vessels")


class Solid(BaseModel):
    """An image of three dimensions that may be cut into thick slices."""

    thick_slices: Annotated[int, Field(ge=1, le=8)] = Field(
        1, description="this many slices are averaged into one, so that the volume has fewer, thicker slices"
    )


class Torso3d(Solid, Organs, Render):
    """A torso as a volume."""

    size: tuple[Side, Side, Side] = Field(
        (96, 96, 96), description="voxels from left to right, back to front and foot to head, before thick_slices"
    )
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="voxel size in mm; without it a torso's field of view is spread over the size"
    )
    channels: Literal[1, 2] = Field(1, description="2: a second image of other greys beside the first")


class Shapes(Render):
    """Random label maps without any stable classes."""

    contrast: Literal["random"] = Field("random", description="there is no fixed grey: the shapes have no meaning")
    dims: Literal[2, 3] = Field(2, description="pictures or volumes")
    size: tuple[Side, ...] | None = Field(None, description="one number per axis")
    channels: Literal[1] = Field(1, description="grey")
    fields: Annotated[int, Field(ge=2, le=64)] = Field(
        12, description="smooth noise fields that compete for each voxel; the first is the background"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Shapes:
        if self.size is not None and len(self.size) != self.dims:
            raise ValueError(f"size {list(self.size)} has {len(self.size)} numbers, dims={self.dims} needs {self.dims}")
        return self

    @property
    def counts(self) -> tuple[int, int]:
        """Training and test cases where the recipe asks for no number."""
        return (48, 16) if self.dims == 2 else (16, 6)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size in voxels, given or by dims."""
        return self.size or ((256, 256), (96, 96, 96))[self.dims - 2]


class Brain(Solid, Render):
    """Warped copies of one averaged brain."""

    warp: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        4.0, description="standard deviation of the displacements in mm"
    )


_FAMILIES: dict[str, type[Render]] = {"torso": Torso2d, "cells": Cells, "vessels": Vessels}
_SCHEMAS: dict[str, type[Render]] = {"phantom3d": Torso3d, "shapes": Shapes, "brain3d": Brain}
GENERATORS = ("phantom2d", *_SCHEMAS)


def read_options(name: str, given: dict[str, Any]) -> Render:
    """Check the options of generator `name` and fill in the defaults.

    Raises RecipeError that names every fault, with the nearest right key.
    """
    schema = _schema(name, given)
    try:
        return schema.model_validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        keys = sorted(schema.model_fields)
        allowed = f"{_named(name, given)} takes {', '.join(keys)}"
        faults = [f"data.generator: {fault}" for fault in explain_faults(error, schema)]
        raise RecipeError(f"{'; '.join(faults)}; {allowed}", faults) from error


def _schema(name: str, given: dict[str, Any]) -> type[Render]:
    if name not in GENERATORS:
        raise RecipeError(
            f"there is no generator '{name}'{nearest(name, GENERATORS)}; data.dataset may be {', '.join(GENERATORS)}"
        )
    if name in _SCHEMAS:
        return _SCHEMAS[name]
    family = str(given.get("family", "torso"))
    if family not in _FAMILIES:
        raise RecipeError(
            f"data.generator.family={family}: expected one of {', '.join(_FAMILIES)}{nearest(family, _FAMILIES)}"
        )
    return _FAMILIES[family]


def _named(name: str, given: dict[str, Any]) -> str:
    return f"{name} of family {given.get('family', 'torso')}" if name == "phantom2d" else name
