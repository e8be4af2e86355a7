"""Losses that stay on the device until somebody has to look at them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unetkit.engine.distributed import ALONE, Group
from unetkit.errors import RecipeError


class LossWatch:
    """Collects [loss, gradient norm] of steps with the cases they saw; reads them from the device in one go.

    The processes of a `group` read together, and see the mean of their losses.
    """

    def __init__(self, group: Group = ALONE) -> None:
        self.group = group
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
        own = list(zip(rows, self._steps, strict=True))
        self._steps, self._values = [], []
        # step by step, and of each step all processes, so that all stop at the same one
        turns = list(zip(*self.group.gather(own), strict=True))
        # the process whose loss it is goes before those that only share its gradient
        parts = [part for turn in turns for part in sorted(turn, key=lambda part: math.isfinite(part[0][0]))]
        for (loss, norm), (step, rate, cases) in parts:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
                raise RecipeError(
                    f"step {step}: the {what} (learning rate {rate:.3g}, cases {', '.join(dict.fromkeys(cases))}); "
                    "lower train.optimizer.lr, set train.clip_norm or train.precision=fp32, or look at those cases "
                    "with `unetkit inspect`; nothing was saved since"
                )
        return [sum(loss for (loss, _), _ in turn) / len(turn) for turn in turns]
