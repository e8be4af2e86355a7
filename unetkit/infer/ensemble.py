"""Segmenters of different plans as one: their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unetkit.data.labels import decode
from unetkit.errors import RecipeError
from unetkit.infer.inputs import Image, open_image
from unetkit.infer.postprocess import check_rules, postprocess
from unetkit.infer.segmenter import Segmentation, Segmenter
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import PostprocessRule
from unetkit.types import Volume


class Whole:
    """Images of any kind in, the same kind out, for whatever segments cases."""

    def predict(self: Any, image: Image) -> Any:
        """Return the label map in the values of the training labels (uint8 or uint16), in the image's geometry.

        Raises DataError or ShapeError for an image that the networks cannot be used on.
        """
        volume, wrap = open_image(image, self.plan)
        found = self.segment(self.prepare(volume, volume.source or "image"))
        return wrap(decode(found.encoded, self.plan.labels))

    def probabilities(self: Any, image: Image) -> Any:
        """Return the probability of each output, float32 [K, *S]. Raises DataError or ShapeError as `predict`."""
        volume, wrap = open_image(image, self.plan)
        found = self.segment(self.prepare(volume, volume.source or "image"), probabilities=True)
        return wrap(found.chances)


@dataclass(frozen=True, eq=False)
class _Views:
    """A case as each member sees it, and where it lies."""

    members: tuple[Any, ...]
    grid: Volume


class Ensemble(Whole):
    """Segmenters of different plans, each on a grid of its own; probabilities are averaged on the image's grid.

    Unlike a single network it holds classes x volume in memory, twice: probabilities of different grids only meet on
    the finest one.
    """

    def __init__(self, members: Sequence[Segmenter], rules: Sequence[PostprocessRule] = ()) -> None:
        """Join segmenters of the same channels and classes; `rules` come after the mean.

        Raises RecipeError if the members differ, or a rule names an unknown class.
        """
        first = members[0].plan
        for member in members[1:]:
            if member.plan.labels != first.labels or member.plan.channels != first.channels:
                raise RecipeError(
                    f"an ensemble of networks for different data: {', '.join(first.labels.classes)} from "
                    f"{', '.join(first.channels)}, and {', '.join(member.plan.labels.classes)} from "
                    f"{', '.join(member.plan.channels)}; give runs of one study"
                )
        if first.labels.instances:
            raise RecipeError("an ensemble of instances: objects are told apart by one network; give one run")
        check_rules(rules, first.labels)
        self.members, self.rules = tuple(members), tuple(rules)

    @property
    def plan(self) -> Plan:
        """The first member's plan, whose labels and channels all share."""
        return self.members[0].plan

    @property
    def volumes(self) -> bool:
        """Whether images are volumes, not 2D pictures."""
        return self.members[0].volumes

    def prepare(self, volume: Volume, case_id: str) -> _Views:
        """Preprocess a case for every member. Raises DataError or ShapeError as each of them."""
        return _Views(tuple(member.prepare(volume, case_id) for member in self.members), volume)

    def segment(self, prepared: _Views, *, probabilities: bool = False) -> Segmentation:
        """Return the segmentation by the mean probability. Raises DataError if the memory does not suffice."""
        total: np.ndarray | None = None
        for member, view in zip(self.members, prepared.members, strict=True):
            chances = member.segment(view, probabilities=True).chances
            assert chances is not None  # they were asked for
            total = chances if total is None else np.add(total, chances, out=total)
        assert total is not None
        total /= len(self.members)
        labels = self.plan.labels
        # the first of equal classes, as everywhere; numpy's argmax would hold 8 bytes a voxel
        encoded = (total > 0.5).astype(np.uint8) if labels.regions else _winner(total)[None]
        encoded = postprocess(encoded, self.rules, labels, prepared.grid)
        return Segmentation(encoded, total if probabilities else None)


def _winner(chances: np.ndarray) -> np.ndarray:
    return torch.from_numpy(chances).argmax(dim=0).to(torch.uint8).numpy()
