"""From a path to what predicts, whether it is a checkpoint, a run or a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unetkit.errors import RecipeError
from unetkit.infer.cascade import Cascade
from unetkit.infer.ensemble import Ensemble
from unetkit.infer.predictor import Predictor
from unetkit.infer.study import holds_study, load_study


def load(
    path: str | Path,
    device: str = "auto",
    *,
    previous: str | Path | None = None,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    **overrides: Any,
) -> Predictor | Ensemble | Cascade:
    """Return what predicts: the Predictor of a run folder or checkpoint, or all that a study has chosen.

    `device` is auto, cpu, cuda or cuda:N; `overrides` are keys of a recipe's `infer` section. `previous` is for a run
    of a cascade alone: the folder with the earlier stage's label maps, named by case. `configurations` and `folds`
    are for a study, to predict with others than the chosen ones.
    Raises CheckpointError for what cannot be loaded, RecipeError for a word that is not possible.
    """
    if not holds_study(Path(path)):
        if configurations is not None or folds is not None:
            raise RecipeError(
                f"{path}: configurations= and folds= are for a study, and this is a single run; drop them"
            )
        return Predictor.from_checkpoint(path, device, previous=previous, **overrides)
    if previous is not None:
        raise RecipeError(f"{path}: a study predicts the stage before a cascade by itself; drop previous=")
    return load_study(Path(path), device, configurations=configurations, folds=folds, **overrides)
