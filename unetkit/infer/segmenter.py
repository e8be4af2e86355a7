"""What predicts cases: the interface that folders, evaluation and validation rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from unetkit.plan.plan import Plan
from unetkit.types import Volume


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A prediction on the grid of the case's own image.

    `encoded` is uint8 [L, *S]: class indices, 0/1 per region, or the layers of instances. `chances` is float32
    [K, *S], the probability of background and classes, or of each region, or foreground and distance of instances;
    None where nobody asked for it. `scores` are those of objects 1 to N, float32 [N], where queries found them.
    """

    encoded: np.ndarray
    chances: np.ndarray | None = None
    scores: np.ndarray | None = None


class Segmenter(Protocol):
    """A network, or several, that segment cases."""

    @property
    def plan(self) -> Plan:
        """Labels and channels of the cases; of several members the first one's."""

    @property
    def volumes(self) -> bool:
        """Whether images are volumes, not 2D pictures."""

    def prepare(self, volume: Volume, case_id: str) -> Any:
        """Return what `segment` takes: preprocessing, without the network, from any thread.

        Raises DataError or ShapeError for an image that cannot be used.
        """

    def segment(self, prepared: Any, *, probabilities: bool = False) -> Segmentation:
        """Return the segmentation of a prepared case. Raises DataError if the memory does not suffice."""
