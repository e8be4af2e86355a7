"""Whole-case validation while training: the network of the moment in the Predictor that users get."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from unetkit.data.share import merged
from unetkit.engine.distributed import ALONE, Group
from unetkit.engine.fit import Score
from unetkit.engine.prepare import Reference
from unetkit.infer.device import pick_compute
from unetkit.infer.predictor import Predictor
from unetkit.metrics import evaluate_case
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe


class Validation:
    """Scores a network on fixed cases by Dice alone, with the recipe's rule for absent classes.

    Of a group each process has `cases` of its own, and all get the score of all cases.
    """

    def __init__(
        self, cases: Sequence[Reference], plan: Plan, recipe: Recipe, device: torch.device, group: Group = ALONE
    ) -> None:
        self.cases, self.plan, self.group = cases, plan, group
        self.settings = recipe.infer
        # distances would take longer than the predictions
        self.rules = recipe.evaluate.model_copy(update={"distances": False})
        self.compute = pick_compute(device, recipe.train.precision)

    def __call__(self, network: nn.Module) -> Score:
        """Return the mean over cases of the mean Dice of their classes, and each class's mean; NaN without cases."""
        predictor = Predictor(network.eval(), self.plan, self.settings, self.compute)
        with self.group.together():
            own = [self._dice(predictor, case) for case in self.cases]
        # in the order of the cases, whoever scored them: sums depend on it in their last bit
        rows = merged(self.group.gather(own))
        # both means leave NaN out, so the mean over cases is not the mean over classes
        per_class = {name: _mean([row[name] for row in rows]) for name in self.plan.labels.classes}
        return Score(_mean([_mean(list(row.values())) for row in rows]), per_class)

    def _dice(self, predictor: Predictor, case: Reference) -> dict[str, float]:
        geometry = case.prepared.geometry
        encoded = predictor.encoded(case.prepared)
        scores = evaluate_case(encoded, case.labels, self.plan.labels, geometry.input_spacing, self.rules)
        return {name: of_class["dice"] for name, of_class in scores.items()}


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan
