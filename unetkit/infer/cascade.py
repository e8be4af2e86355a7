"""A cascade as one segmenter: what the first stage predicts, the second one sees beside the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from unetkit.data.preprocess import Prepared, prepare_previous, preprocess
from unetkit.errors import RecipeError
from unetkit.infer.ensemble import Whole
from unetkit.infer.predictor import Predictor
from unetkit.infer.segmenter import Segmentation, Segmenter
from unetkit.plan.plan import Plan
from unetkit.types import Volume


@dataclass(frozen=True, eq=False)
class StagedCase:
    """A case as each of the two stages sees it; the second one lacks what the first has yet to predict."""

    first: Any
    second: Prepared


class Cascade(Whole):
    """Two stages that predict one after the other, without a file in between (nnU-Net, doi:10.1038/s41592-020-01008-z).

    The first may be any segmenter, an ensemble of folds also; its masks go to the second without any probabilities.
    """

    def __init__(self, first: Segmenter, second: Predictor) -> None:
        """Chain two stages. Raises RecipeError if the second sees no masks, or the stages differ in classes."""
        if not second.plan.previous:
            raise RecipeError(
                f"the second stage ({second.plan.configuration or 'a network of its own'}) sees no masks of a first "
                "one; give the run of a 3d_cascade_fullres"
            )
        if first.plan.labels != second.plan.labels or first.plan.channels != second.plan.channels:
            raise RecipeError(
                f"the stages were trained on different data: {', '.join(first.plan.labels.classes)} from "
                f"{', '.join(first.plan.channels)}, and {', '.join(second.plan.labels.classes)} from "
                f"{', '.join(second.plan.channels)}; give two runs of one study"
            )
        self.first, self.second = first, second

    @property
    def plan(self) -> Plan:
        """The second stage's plan, whose labels the first one shares."""
        return self.second.plan

    @property
    def volumes(self) -> bool:
        """Whether images are volumes, not 2D pictures."""
        return self.second.volumes

    def prepare(self, volume: Volume, case_id: str) -> StagedCase:
        """Preprocess a case for both stages, without the networks. Raises DataError or ShapeError as each stage."""
        # The first stage checks the image; the channels are the same for both.
        first = self.first.prepare(volume, case_id)
        return StagedCase(first, preprocess(volume, None, self.plan, case_id=case_id))

    def segment(self, prepared: StagedCase, *, probabilities: bool = False) -> Segmentation:
        """Return what the second stage makes of the first one's label map. Raises DataError if memory runs out."""
        geometry = prepared.second.geometry
        found = replace(geometry.grid, data=self.first.segment(prepared.first).encoded)
        previous = prepare_previous(found, geometry, self.plan)
        return self.second.segment(replace(prepared.second, previous=previous), probabilities=probabilities)
