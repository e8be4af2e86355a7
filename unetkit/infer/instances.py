"""Objects from two outputs of a network: where the foreground is, and how far each voxel lies from an object's border.

Markers are the connected parts of the foreground whose distance is large, one in each object; flooding from them
along the distance cuts objects that touch (marker-controlled watershed, as on the distance transform that a U-Net
learnt in arXiv:2106.05843; foreground and markers from two outputs as in arXiv:2004.01607).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from unetkit.data.instances import MOST, with_numbers
from unetkit.errors import DataError, RecipeError
from unetkit.recipe.schema import InferSection
from unetkit.types import Labels

WATERSHED = ("marker_threshold",)
QUERIES = ("query_score", "query_nms")
KEYS = ("foreground_threshold", "smallest_object", *WATERSHED, *QUERIES)
"""The settings of inference that instances alone read."""


def check_instance_settings(settings: InferSection, labels: Labels, queries: bool = False) -> None:
    """Raise RecipeError for settings that labels and network give no meaning to; `queries`: objects come from them."""
    defaults = InferSection()
    changed = [key for key in KEYS if getattr(settings, key) != getattr(defaults, key)]
    if not labels.instances:
        for key in changed:
            raise RecipeError(f"infer.{key} is for instances, these labels are classes; drop it, or train instances")
        return
    if settings.restore == "labels":
        raise RecipeError(
            "infer.restore=labels: objects are told apart on the image's own grid, from outputs that are "
            "interpolated; drop it"
        )
    for key in changed:
        if key in (WATERSHED if queries else QUERIES):
            made = "queries" if queries else "a watershed"
            raise RecipeError(f"infer.{key} has no use here, where objects come from {made}; drop it")
    if queries and settings.mirror:
        raise RecipeError("infer.mirror=true: the queries of mirrored images have no mean; drop it")


def foreground(chances: np.ndarray, settings: InferSection) -> np.ndarray:
    """Return where there are objects at all, uint8 [1, *S], of outputs [2, *S] from 0 to 1."""
    return (chances[:1] > settings.foreground_threshold).astype(np.uint8)


def separated(inside: np.ndarray, distance: np.ndarray, settings: InferSection, where: str) -> np.ndarray:
    """Return the objects of a foreground uint8 [1, *S], told apart by distances [*S], as encoded label uint8 [4, *S].

    Raises DataError, naming the case, for more objects than can be numbered.
    """
    mask = inside[0] == 1
    whole = np.ones((3,) * mask.ndim, bool)  # neighbours at faces, edges and corners
    markers, count = ndimage.label(mask & (distance > settings.marker_threshold))
    parts, _ = ndimage.label(mask, whole)
    # A part without any marker is an object of its own: small ones seldom have a pronounced middle.
    unmarked = np.ones(int(parts.max()) + 1, bool)
    unmarked[parts[markers > 0]] = False
    alone = mask & unmarked[parts]
    markers[alone] = count + parts[alone]
    numbers = _renumbered(watershed(-distance, markers, connectivity=whole, mask=mask), settings.smallest_object)
    if numbers.max() > MOST:
        raise DataError(
            f"{where}: {numbers.max()} objects, {MOST} can be numbered; raise infer.marker_threshold or "
            "infer.smallest_object"
        )
    return with_numbers(numbers, np.where(numbers > 0, distance, 0))


def _renumbered(numbers: np.ndarray, smallest: int) -> np.ndarray:
    """Return numbers from 1 on without gaps, of the objects that have enough voxels."""
    sizes = np.bincount(numbers.ravel())
    kept = sizes >= max(smallest, 1)
    kept[0] = False
    table = np.where(kept, np.cumsum(kept), 0)
    renumbered: np.ndarray = table[numbers]
    return renumbered
