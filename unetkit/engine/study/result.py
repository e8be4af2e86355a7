"""The end of a study: all folds together, the report, and what the caller gets."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetkit.checkpoint import versions
from unetkit.engine.log import read_log
from unetkit.engine.study.choose import Chosen, choose
from unetkit.engine.study.crossval import cross_validate
from unetkit.engine.study.decide import Study
from unetkit.engine.study.folder import FINISHED, State
from unetkit.evaluation import Evaluation, read_evaluation
from unetkit.evaluation.cases import about_dataset
from unetkit.recipe.merge import flatten_recipe

if TYPE_CHECKING:
    from unetkit.report.study import RunRow, StudyData


@dataclass(frozen=True)
class StudyResult:
    """Where a study's results are, and the most important of them.

    `configurations` holds for each configuration whose folds are all finished the cross-validated `dice`, its
    interval `ci95`, `per_class`, and the `mean` and `std` over `folds`; `runs` the Dice of each run, None where it is
    not finished. `dice` and `per_class` are those of `best`, the configuration with the highest. `failures` says why
    a run failed, or a case could not be scored; the scores are without them. `choice` is what the study predicts with
    (choice.json), `chosen` the same in a sentence.
    """

    run: Path
    report: Path
    runs: dict[str, float | None]
    configurations: dict[str, dict[str, Any]]
    best: str | None
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    choice: dict[str, Any] | None = None
    chosen: str = ""

    @property
    def dice(self) -> float | None:
        """Cross-validated mean foreground Dice of the best configuration."""
        return None if self.best is None else self.configurations[self.best]["dice"]

    @property
    def per_class(self) -> dict[str, float | None]:
        """The same of each class."""
        return {} if self.best is None else dict(self.configurations[self.best]["per_class"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "run": str(self.run),
            "report": str(self.report),
            "runs": dict(self.runs),
            "configurations": dict(self.configurations),
            "best": self.best,
            "dice": self.dice,
            "per_class": self.per_class,
            "seconds": self.seconds,
            "failures": dict(self.failures),
            "choice": self.choice,
        }

    def summary(self) -> str:
        """Return the lines for people."""
        rows: list[tuple[str, str]] = [(name, _shown(dice)) for name, dice in self.runs.items()]
        for name, of in self.configurations.items():
            spread = "" if of["std"] is None else f" (folds {of['mean']:.4f} ± {of['std']:.4f})"
            rows.append((f"{name}, all folds", _shown(of["dice"]) + spread))
        rows += [("predicts with", self.chosen)] if self.chosen else []
        rows += [("seconds", f"{self.seconds:.0f}"), ("run", str(self.run)), ("report", str(self.report))]
        wide = max(len(name) for name, _ in rows) + 2
        lines = ["mean foreground Dice", *(f"{name:<{wide}}{value}" for name, value in rows)]
        return "\n".join([*lines, *(f"failed: {name}: {why}" for name, why in self.failures.items())])


def conclude_study(study: Study, started: float) -> StudyResult:
    """Put all folds of each configuration together, write metrics and report, and return what came out.

    `started` is when the study began, by the monotonic clock. Raises DataError if something cannot be written.
    """
    # matplotlib is slow to import, and wanted at the end alone
    from unetkit.report.study import best_configuration, write_study_report

    pooled = cross_validate(study)
    chosen = choose(study, pooled)
    report = write_study_report(study.folder.path, _report(study, pooled, chosen))
    states = {node.name: study.folder.states[node.name] for node in study.folder.nodes}
    failures = {name: state.reason for name, state in states.items() if state.state != FINISHED}
    for name in [name for name in states if name not in failures]:
        lost = read_evaluation(study.folder.path / name).failures
        failures |= {f"{name}, {case}": why for case, why in lost.items()}
    return StudyResult(
        study.folder.path,
        report,
        {name: state.dice for name, state in states.items()},
        {name: _summed(evaluation) for name, evaluation in pooled.items()},
        best_configuration({name: evaluation.summary for name, evaluation in pooled.items()}),
        time.monotonic() - started,
        failures,
        None if chosen is None else chosen.to_json(),
        "" if chosen is None else chosen.sentence(),
    )


def _summed(evaluation: Evaluation) -> dict[str, Any]:
    """Return what a result says of one configuration; undefined numbers are None."""
    tree = evaluation.to_json()
    mean, folds = tree["summary"]["mean"], tree["summary"]["folds"]
    interval = mean["dice"]["ci95"] if "dice" in mean else [None, None]
    return {
        "dice": tree["dice"],
        "ci95": interval,
        "per_class": tree["per_class"],
        "folds": folds["dice"],
        "mean": folds["mean"],
        "std": folds["std"],
    }


def _report(study: Study, pooled: Mapping[str, Evaluation], chosen: Chosen | None) -> StudyData:
    from unetkit.report.study import StudyData

    folder, recipe = study.folder, study.recipe
    about = about_dataset(study.dataset)
    reasons = {
        "choice": "" if chosen is None else chosen.sentence(),
        "postprocessing": "" if chosen is None else "; ".join(chosen.rules.reasons),
        **folder.about["configurations"],
        **{f"fold {fold}": how for fold, how in folder.about["folds"].items()},
        "fingerprint": folder.about["fingerprint"]["of"],
    }
    return StudyData(
        title=folder.path.name,
        model=recipe.model.name,
        dataset=about["dataset"],
        runs=[_row(study, node.name, folder.states.get(node.name, State())) for node in folder.nodes],
        pooled={name: evaluation.summary for name, evaluation in pooled.items()},
        reasons={name: why for name, why in reasons.items() if why},
        notes=folder.about["notes"],
        recipe=[(k, str(v), study.origins.get(k, "default")) for k, v in flatten_recipe(recipe).items()],
        versions=versions(),
        phantom=about["generated"] == "yes",
    )


def _row(study: Study, name: str, state: State) -> RunRow:
    from unetkit.report.study import RunRow

    configuration, _, fold = name.partition("/fold_")
    history = read_log(study.folder.path / name / "log.jsonl")
    return RunRow(configuration, int(fold), name, state.state, state.reason, state.dice, state.seconds, history)


def _shown(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
