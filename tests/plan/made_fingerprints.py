"""Fingerprints and recipes that tests of planning start from."""

import json

from unetkit.plan.fingerprint import Fingerprint, Intensity
from unetkit.recipe.schema import Recipe
from unetkit.types import Labels


def volumes(shape=(319, 320, 20), spacing=(0.625, 0.625, 3.6), **changes) -> Fingerprint:
    """Thirty CT volumes, axes right, anterior, superior."""
    parts = {
        "dims": 3,
        "channels": ("CT",),
        "labels": Labels(("liver", "tumour"), ((1,), (2,))),
        "cases": tuple(map(str, range(30))),
        "shapes": (shape,) * 30,
        "cropped": (shape,) * 30,
        "spacings": (spacing,) * 30,
        "placed": True,
        "intensities": (Intensity(-100, 240, 90, 40, 95),),
        "dtypes": {"int16": 30},
        "voxels": {"liver": 10, "tumour": 1},
    }
    return Fingerprint(**parts | changes)


def pictures(**changes) -> Fingerprint:
    seen = Intensity(10, 250, 120, 50, 110)
    parts = {
        "shapes": ((530, 620),) * 30,
        "cropped": ((500, 600),) * 30,
        "spacings": ((1.0, 1.0),) * 30,
        "intensities": (seen,) * 3,
        "dtypes": {"uint8": 30},
    }
    return volumes(**{"dims": 2, "placed": False, "channels": ("red", "green", "blue"), **parts, **changes})


def recipe(**tree) -> Recipe:
    return Recipe.model_validate_json(json.dumps(tree))
