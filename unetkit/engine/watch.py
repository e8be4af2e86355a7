"""Losses that stay on the device until somebody has to look at them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unetkit.errors import RecipeError


class LossWatch:
    """Collects [loss, gradient norm] of steps with the cases they saw; reads them from the device in one go."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._steps: list[tuple[int, float, tuple[str, ...]]] = []

    def add(self, values: Tensor, step: int, rate: float, cases: Sequence[str]) -> None:
        """Remember what a step gave, without waiting for it."""
        self._values.append(values)
        self._steps.append((step, rate, tuple(cases)))

    def read(self) -> list[float]:
        """Return the losses since the last call, oldest first, and forget them.

        Raises RecipeError at the first step whose loss or gradient is not finite, naming its cases.
        """
        if not self._values:
            return []
        rows = torch.stack(self._values).tolist()  # waits for the device, once for many steps
        steps, self._steps, self._values = self._steps, [], []
        for (loss, norm), (step, rate, cases) in zip(rows, steps, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
                raise RecipeError(
                    f"step {step}: the {what} (learning rate {rate:.3g}, cases {', '.join(dict.fromkeys(cases))}); "
                    "lower train.optimizer.lr, set train.clip_norm or train.precision=fp32, or look at those cases "
                    "with `unetkit inspect`; nothing was saved since"
                )
        return [loss for loss, _ in rows]
