"""The scores of many cases, and the forms in which they are kept: JSON, CSV, a table, a report."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetkit.data.formats.files import replacing
from unetkit.errors import DataError, counted
from unetkit.metrics import METRICS, Scores
from unetkit.report import ReportData, Shown, write_report

_SHORT = {"volume_difference": "volume"}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores by case, class and metric, and what they come to.

    `summary` is `metrics.aggregate` of the rows, `definitions` states each metric and rule, `failures` says why a
    case has no scores, `pictures` shows best, median and worst case, `about` has title, model and dataset.
    Distances are in `definitions["unit"]`; undefined values are NaN.
    """

    rows: Mapping[str, Scores]
    summary: Mapping[str, Any]
    definitions: Mapping[str, str]
    classes: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Shown] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def dice(self) -> float:
        """Mean foreground Dice: over the classes of a case, then over cases."""
        return float(self.summary["dice"])

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as JSON values; undefined numbers are null."""
        return {
            "dice": _plain(self.dice),
            "per_class": {name: _plain(of["dice"]["mean"]) for name, of in self.summary["classes"].items()},
            "summary": _plain(self.summary),
            "cases": _plain(self.rows),
            "failures": dict(self.failures),
            "definitions": dict(self.definitions),
            "about": dict(self.about),
        }

    def to_csv(self) -> str:
        """Return one line for each case, class and metric; undefined values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("case", "class", "metric", "value"))
        for case, name, metric, value in self.long_form():
            writer.writerow((case, name, metric, repr(value) if math.isfinite(value) else ""))
        return text.getvalue()

    def long_form(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield (case, class, metric, value)."""
        for case, scores in self.rows.items():
            for name, of_class in scores.items():
                for metric, value in of_class.items():
                    yield case, name, metric, value

    def table(self) -> str:
        """Return the means of each class and of all, with the definitions that matter, as text."""
        metrics = [metric for metric in METRICS if metric in self.summary["mean"]]
        rows = [["class", *(_SHORT.get(m, m) for m in metrics), "undefined"]]
        for name, of in [*self.summary["classes"].items(), ("mean", self.summary["mean"])]:
            undefined = str(of["dice"]["undefined"]) if of else ""
            rows.append([name, *(_number(m, of[m]["mean"]) for m in metrics), undefined])
        wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, wide, strict=True)))
                 for r in rows]  # fmt: skip
        low, high = self.summary["mean"]["dice"]["ci95"] if "dice" in self.summary["mean"] else (math.nan, math.nan)
        interval = f", 95 % CI {low:.4f} to {high:.4f}" if math.isfinite(low) else ""
        lines.append(f"mean foreground Dice {_number('dice', self.dice)}{interval}, {counted(len(self.rows), 'case')}")
        lines += [
            f"{name}: {self.definitions[name]}"
            for name in ("hd95", "nsd", "ap50", "pq", "empty")
            if name in self.definitions
        ]
        if "ranked_ap" in self.summary:
            values = " and ".join(_number("ap", self.summary[key]) for key in ("ranked_ap", "ranked_ap50"))
            lines.append(f"{values}: {self.definitions['ranked_ap']}")
        lines += [f"not scored: {case}: {why}" for case, why in self.failures.items()]
        return "\n".join(lines)

    def report(self) -> ReportData:
        """Return what a report says of these scores; `dataclasses.replace` adds training, recipe and machine."""
        return ReportData(
            title=self.about.get("title", "Evaluation"),
            model=self.about.get("model", "label maps"),
            dataset=self.about.get("dataset", "given references"),
            classes=self.classes,
            rows=self.rows,
            summary=self.summary,
            definitions=self.definitions,
            failures=self.failures,
            pictures=self.pictures,
            facts=self._facts(),
            phantom=self.about.get("generated") == "yes",
        )

    def _facts(self) -> dict[str, str]:
        facts = {"Split": self.about["split"]} if "split" in self.about else {}
        if "ranked_ap" in self.summary:
            for name, key in (("Ranked AP", "ranked_ap"), ("Ranked AP50", "ranked_ap50")):
                facts[name] = _number("ap", self.summary[key])
        return facts


def require_scores(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation. Raises DataError, with the first reason, if cases failed and none is left."""
    if evaluation.failures and not evaluation.rows:
        case, why = next(iter(evaluation.failures.items()))
        raise DataError(f"no case could be evaluated, {len(evaluation.failures)} failed; {case}: {why}")
    return evaluation


def write_evaluation(evaluation: Evaluation, folder: Path, report: ReportData | None = None) -> Path:
    """Write metrics.json, metrics.csv, report.html and pictures into a folder, and return the report's path.

    `report` replaces the evaluation's own. Raises DataError if the folder cannot be written.
    """
    # Numbers before pictures: if drawing fails for want of space, the scores are safe.
    contents = {
        "metrics.json": json.dumps(evaluation.to_json(), indent=1),
        "metrics.csv": evaluation.to_csv(),
    }
    for name, text in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return write_report(folder, report or evaluation.report())


def read_evaluation(folder: Path) -> Evaluation:
    """Read back the metrics.json of a folder: all but the pictures; what was undefined or infinite is NaN.

    Raises DataError if it is not there or damaged.
    """
    path = folder / "metrics.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation(
            rows=_numbers(tree["cases"]),
            summary=_numbers(tree["summary"]),
            definitions=tree["definitions"],
            classes=tuple(tree["per_class"]),
            failures=tree["failures"],
            about=tree["about"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as metrics of unetkit ({error}); evaluate again") from error


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    # NaN and infinity are no JSON, though Python would write them.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.2f}" if metric in ("hd95", "assd") else f"{value:.4f}"
