"""How far a training has come: by its steps, or by the clock where `train.epochs` is null."""

from __future__ import annotations

from dataclasses import dataclass

from unetkit.recipe.training import TrainSection


@dataclass(frozen=True)
class Horizon:
    """The length of a training: `steps`, or None where its minutes alone are given."""

    settings: TrainSection
    steps: int | None

    def share(self, step: int, seconds: float) -> float:
        """Return which part of the training is over, 0 to 1, after so many steps and seconds."""
        if self.steps is not None:
            return step / self.steps
        assert self.settings.max_minutes is not None
        return min(seconds / (60 * self.settings.max_minutes), 1.0)

    def validates(self, epoch: int, share: float, before: float) -> bool:
        """Tell whether a validation is due after an epoch; at the last one, `before` was the share that was over."""
        wanted = self.settings.validations
        if wanted is None:
            return epoch % self.settings.validate_every == 0
        # rounding must not put one off by an epoch
        return int(share * wanted + 1e-9) > int(before * wanted + 1e-9)
