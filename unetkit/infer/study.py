"""A study's folder as one segmenter: the configurations that were chosen, all their folds, the stages of a cascade."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetkit.errors import CheckpointError, RecipeError, nearest
from unetkit.infer.cascade import Cascade
from unetkit.infer.ensemble import Ensemble
from unetkit.infer.predictor import Predictor
from unetkit.recipe.schema import PostprocessRule

STUDY, CHOICE = "study.json", "choice.json"
"""Files of a study: its runs and how they stand; what was chosen on the cross-validation."""


@dataclass(frozen=True)
class Choice:
    """What a study predicts with: one configuration, or several that are averaged, and rules for their label maps."""

    configurations: tuple[str, ...]
    rules: tuple[PostprocessRule, ...] = ()


def holds_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / STUDY).is_file()


def runs_of(path: Path) -> dict[str, dict[int, Path]]:
    """Return the folders of a study's finished runs, by configuration and fold.

    Raises CheckpointError if the folder's study.json is damaged.
    """
    try:
        rows = json.loads((path / STUDY).read_text(encoding="utf-8"))["nodes"]
        found: dict[str, dict[int, Path]] = {}
        for row in rows:
            run = path / row["folder"]
            if (run / "metrics.json").is_file():
                found.setdefault(row["configuration"], {})[int(row["fold"])] = run
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: a damaged study ({error}); restore its {STUDY}, or train anew") from error
    return found


def read_choice(path: Path, runs: Mapping[str, Mapping[int, Path]]) -> Choice:
    """Return what was chosen for a study, or its last configuration if nothing was.

    Raises CheckpointError for a damaged choice.json, or if no run is finished.
    """
    if not runs:
        raise CheckpointError(f"{path}: no run of this study is finished; go on with `unetkit train resume={path}`")
    file = path / CHOICE
    if not file.is_file():
        return Choice((list(runs)[-1],))
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        rules = tuple(PostprocessRule.model_validate_json(json.dumps(rule)) for rule in tree["postprocess"])
        return Choice(tuple(tree["configurations"]), rules)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{file}: damaged ({text}); delete it to predict without the choice") from error


def load_study(
    path: Path,
    device: str = "auto",
    *,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    **overrides: Any,
) -> Predictor | Ensemble | Cascade:
    """Return what a study predicts with: the chosen configurations with all their finished folds.

    `configurations` and `folds` name others; then the postprocessing that was chosen does not apply, as it belongs to
    that choice. `overrides` are keys of a recipe's `infer` section.
    Raises CheckpointError for a study that cannot be loaded, RecipeError for configurations or folds it lacks.
    """
    runs = runs_of(path)
    choice = read_choice(path, runs)
    if configurations is not None or folds is not None:
        choice = Choice(tuple(configurations or choice.configurations))
    for name in choice.configurations:
        if name not in runs:
            hint = nearest(name, runs)
            raise RecipeError(f"{path}: no finished run of '{name}'{hint}; there are {', '.join(runs)}")
    if "postprocess" in overrides:
        choice = Choice(choice.configurations)
    if len(choice.configurations) == 1:
        rules = {"postprocess": [rule.model_dump() for rule in choice.rules]} if choice.rules else {}
        return _configuration(path, runs, choice.configurations[0], folds, device, {**rules, **overrides})
    rules_after = overrides.pop("postprocess", None)
    members = [_configuration(path, runs, name, folds, device, overrides) for name in choice.configurations]
    after = choice.rules if rules_after is None else [PostprocessRule(**rule) for rule in rules_after]
    return Ensemble(members, after)


def _configuration(
    path: Path,
    runs: Mapping[str, Mapping[int, Path]],
    name: str,
    folds: Sequence[int] | None,
    device: str,
    overrides: Mapping[str, Any],
) -> Predictor | Cascade:
    """Return one configuration: the mean of its folds, behind the stage before it if it is a cascade."""
    chosen = list(runs[name]) if folds is None else list(folds)
    if lacking := [fold for fold in chosen if fold not in runs[name]]:
        raise RecipeError(
            f"{path}: {name} has no finished fold {lacking[0]}; there are {', '.join(map(str, runs[name]))}"
        )
    predictor = Predictor.from_folds([runs[name][fold] for fold in chosen], device, **overrides)
    if not predictor.plan.previous:
        return predictor
    stage = _stage_before(path)
    if stage not in runs:
        raise CheckpointError(f"{path}: {name} needs runs of {stage}, and none is finished; train them first")
    # unseen images were in no fold, so that all folds of the stage may look at them
    inner = {key: value for key, value in overrides.items() if key != "postprocess"}
    return Cascade(Predictor.from_folds(list(runs[stage].values()), device, **inner), predictor)


def _stage_before(path: Path) -> str:
    rows = json.loads((path / STUDY).read_text(encoding="utf-8"))["nodes"]
    before = {name.partition("/")[0] for row in rows for name in row["requires"]}
    return next(iter(before), "")
