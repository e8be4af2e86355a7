"""Scores case after case, whether the label maps come from files or from a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from unetkit.data.share import Share
from unetkit.evaluation.gallery import Gallery
from unetkit.evaluation.ranking import RANKED, RankedCase, ranked_case, ranked_precision
from unetkit.evaluation.result import Evaluation
from unetkit.metrics import Scores, aggregate, case_mean, describe, evaluate_case
from unetkit.recipe.schema import EvaluateSection
from unetkit.report import take_picture
from unetkit.types import Labels, Volume


class Peers(Protocol):
    """The processes that share out the cases."""

    @property
    def share(self) -> Share:
        """The part of this process."""

    def gather(self, value: Tally) -> list[Tally]:
        """Return the values of all processes, by rank."""


class Tally:
    """Takes cases one by one and sums them up at the end."""

    def __init__(self, labels: Labels, rules: EvaluateSection) -> None:
        self.labels, self.rules = labels, rules
        self.rows: dict[str, Scores] = {}
        self.failures: dict[str, str] = {}
        self.gallery = Gallery()
        self.metric = False
        self.ranked: dict[str, RankedCase] = {}

    def score(
        self, case: str, image: Volume, pred: np.ndarray, ref: np.ndarray, confidences: np.ndarray | None = None
    ) -> None:
        """Score encoded labels uint8 [L, *S] on the grid of an image, and keep a picture. Raises ShapeError.

        `confidences` are the scores [N] of predicted objects, where they have some.
        """
        scores = evaluate_case(pred, ref, self.labels, image.spacing, self.rules)
        self.rows[case] = scores
        if confidences is not None:
            self.ranked[case] = ranked_case(pred, ref, confidences)
        # Pictures without a spacing count in pixels; one case with a spacing makes the whole table mm.
        self.metric = self.metric or image.affine is not None or any(s != 1 for s in image.spacing)
        self.gallery.add(case, case_mean(scores, "dice"), take_picture(image, pred, ref, self.labels.instances))

    def joined(self, peers: Peers | None, order: Sequence[str]) -> Tally:
        """Return the tally of all processes, the same on each, with its cases in the given order."""
        total = Tally(self.labels, self.rules)
        for part in [self] if peers is None else peers.gather(self):
            total.rows |= part.rows
            total.ranked |= part.ranked
            total.failures |= part.failures
            total.gallery.join(part.gallery)
            total.metric = total.metric or part.metric
        total.rows = {case: total.rows[case] for case in order if case in total.rows}
        total.failures = {case: total.failures[case] for case in order if case in total.failures}
        return total

    def result(self, about: dict[str, str]) -> Evaluation:
        """Return the evaluation of all cases so far; distances are in pixels if no case had a spacing."""
        summary = aggregate(self.rows)
        said = describe(self.rules, unit="mm" if self.metric else "pixels", instances=self.labels.instances)
        # a case without scores could not take part, and the AP of the others is not that of all
        if self.rows and self.ranked.keys() == self.rows.keys():
            summary |= ranked_precision(list(self.ranked.values()))
            said["ranked_ap"] = RANKED
        return Evaluation(
            rows=self.rows,
            summary=summary,
            definitions=said,
            classes=self.labels.classes,
            failures=self.failures,
            pictures=self.gallery.chosen(),
            about=about,
        )
