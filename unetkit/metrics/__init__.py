"""How well a segmentation agrees with its reference, as numbers that papers can cite.

Masks are boolean arrays of two or three axes, `spacing` is in mm per array axis, distances are in mm (in voxels
with unit spacing). The first mask is always the prediction, the second the reference. A value that is not defined
is NaN; only `evaluate_case` replaces it, by the empty-case rule it is told to use.

"Surface" has two meanings. `voxel`: the mask's voxels with a face neighbour outside of it (the image's edge is
outside), as in MONAI and MedPy. `element`: the patches of the marching-cubes surface between voxel centres, each
counted by its area in mm2 (in 2D by its length in mm), as in Nikolov et al. 2018, arXiv:1809.04430.
"""

from unetkit.metrics.case import METRICS, Rules, Scores, describe, evaluate_case
from unetkit.metrics.distance import SurfaceDistances, assd, hausdorff, hd95, surface_dice, surface_distances
from unetkit.metrics.instances import coco_average_precision, instance_scores
from unetkit.metrics.overlap import dice, iou, precision, recall, volume_difference
from unetkit.metrics.summary import aggregate, bootstrap_interval, case_mean

__all__ = [
    "METRICS",
    "Rules",
    "Scores",
    "SurfaceDistances",
    "aggregate",
    "assd",
    "bootstrap_interval",
    "case_mean",
    "coco_average_precision",
    "describe",
    "dice",
    "evaluate_case",
    "hausdorff",
    "hd95",
    "instance_scores",
    "iou",
    "precision",
    "recall",
    "surface_dice",
    "surface_distances",
    "volume_difference",
]
