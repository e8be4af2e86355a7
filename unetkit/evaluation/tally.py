"""Scores case after case, whether the label maps come from files or from a network."""

from __future__ import annotations

import numpy as np

from unetkit.evaluation.gallery import Gallery
from unetkit.evaluation.result import Evaluation
from unetkit.metrics import Scores, aggregate, case_mean, describe, evaluate_case
from unetkit.recipe.schema import EvaluateSection
from unetkit.report import take_picture
from unetkit.types import Labels, Volume


class Tally:
    """Takes cases one by one and sums them up at the end."""

    def __init__(self, labels: Labels, rules: EvaluateSection) -> None:
        self.labels, self.rules = labels, rules
        self.rows: dict[str, Scores] = {}
        self.failures: dict[str, str] = {}
        self.gallery = Gallery()
        self.metric = False

    def score(self, case: str, image: Volume, pred: np.ndarray, ref: np.ndarray) -> None:
        """Score encoded labels uint8 [L, *S] on the grid of an image, and keep a picture. Raises ShapeError."""
        scores = evaluate_case(pred, ref, self.labels, image.spacing, self.rules)
        self.rows[case] = scores
        # Pictures without a spacing count in pixels; one case with a spacing makes the whole table mm.
        self.metric = self.metric or image.affine is not None or any(s != 1 for s in image.spacing)
        self.gallery.add(case, case_mean(scores, "dice"), take_picture(image, pred, ref))

    def result(self, about: dict[str, str]) -> Evaluation:
        """Return the evaluation of all cases so far; distances are in pixels if no case had a spacing."""
        return Evaluation(
            rows=self.rows,
            summary=aggregate(self.rows),
            definitions=describe(self.rules, unit="mm" if self.metric else "pixels"),
            classes=self.labels.classes,
            failures=self.failures,
            pictures=self.gallery.chosen(),
            about=about,
        )
