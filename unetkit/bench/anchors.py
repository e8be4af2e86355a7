"""Between which values a benchmark's scores are spread: those that U-Bench published, or a cohort's own.

U-Bench (arXiv:2510.07041) takes the 10th and 90th percentile of its hundred models and froze them in the calculator of
its project page; those of IoU differ by data set, those of the costs are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unetkit.errors import DataError, nearest

Span = tuple[float, float]


@dataclass(frozen=True)
class Anchors:
    """The values that count as worst and best, low and high: IoU 0 to 1, natural logarithms of costs, and speed.

    `log_params` is of parameters in millions, `log_gmacs` of billions of multiply-accumulates, `fps` images per second.
    """

    name: str
    iou: Span
    log_params: Span
    log_gmacs: Span
    fps: Span

    def on_machine(self, reference_fps: float) -> Anchors:
        """Return the anchors for a machine on which U-Net (34.5 M parameters, 256 x 256, batch 1) has this speed.

        Those of U-Bench hold for its own machine, where that network does 137.05 images a second.
        """
        share = reference_fps / UBENCH_UNET_FPS
        return replace(self, name=f"{self.name}, speed by U-Net", fps=(self.fps[0] * share, self.fps[1] * share))


UBENCH_UNET_FPS = 137.05495085406875
"""Images per second of U-Net where U-Bench was measured."""

UBENCH_IOU: dict[str, Span] = {
    "busi": (0.5837592, 0.7062627),
    "busbra": (0.77664876, 0.839330144),
    "tnscui": (0.664944187, 0.784390885),
    "isic": (0.81180614, 0.84177554),
    "skincancer": (0.7906120483830283, 0.8538840522323546),
    "kvasir": (0.75085247, 0.8428773),
    "robotool": (0.6940658864425706, 0.8462163286238785),
    "chasedb": (0.4657582467803476, 0.8117408180656985),
    "drive": (0.15081815, 0.6244703),
    "dsb": (0.84518087, 0.8814354),
    "glas": (0.63124824, 0.83085126),
    "monusac": (0.5333726221401941, 0.6691882627377632),
    "cell": (0.7750129177712127, 0.8449313275090908),
    "covid": (0.6272003645175361, 0.6967376585434479),
    "montgomery": (0.9157433067449976, 0.9587296),
    "dca": (0.5091263834701759, 0.6327484215070674),
    "acdc": (0.7268479093509606, 0.8477579210353294),
    "promise": (0.7816956737173072, 0.8686860589568378),
    "synapse": (0.548646052, 0.721961595),
    "cystoidfluid": (0.6349444722562034, 0.8339477863820954),
}
"""10th and 90th percentile of IoU over the models of U-Bench, by data set."""


def ubench_anchors(dataset: str) -> Anchors:
    """Return the frozen anchors of U-Bench for one of its 20 data sets. Raises DataError for any other."""
    if dataset not in UBENCH_IOU:
        raise DataError(
            f"anchors 'ubench:{dataset}': U-Bench published none for it{nearest(dataset, UBENCH_IOU)}; choose one of "
            f"{', '.join(UBENCH_IOU)}, or anchors of the cohort"
        )
    return Anchors(f"ubench:{dataset}", UBENCH_IOU[dataset], (0.39, 4.32), (0.88, 4.20), (24.28, 121.63))


def cohort_anchors(models: Sequence[Sequence[float]], quantiles: Span = (0.1, 0.9), name: str = "cohort") -> Anchors:
    """Return the anchors that a cohort gives itself: quantiles over its models, interpolated linearly.

    Each model is (iou, params_m, gmacs, fps), as `u_score` takes them.
    Raises DataError for fewer than two models, values that are not finite, an IoU that is no share, costs of 0.
    """
    given = np.asarray(models, float)
    if given.ndim != 2 or given.shape[0] < 2 or given.shape[1] != 4 or not np.isfinite(given).all():
        raise DataError(
            f"anchors of a cohort: give finite iou, params_m, gmacs and fps of two models or more: {models}"
        )
    if given[:, 0].min() < 0 or given[:, 0].max() > 1 or given[:, 1:3].min() <= 0 or given[:, 3].min() < 0:
        raise DataError(f"anchors of a cohort: give iou from 0 to 1, and costs above 0: {models}")
    given[:, 1:3] = np.log(given[:, 1:3])
    (iou, params, gmacs, fps) = ((float(low), float(high)) for low, high in np.quantile(given, quantiles, axis=0).T)
    return Anchors(name, iou, params, gmacs, fps)
