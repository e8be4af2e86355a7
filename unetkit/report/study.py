"""The report of several runs that belong together: configurations beside each other, fold by fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetkit.report.figures import Record, dress, label, svg
from unetkit.report.page import PHANTOM, Page, recipe_section, render_html, tiles
from unetkit.report.tables import heat, number, pairs, table
from unetkit.report.write import write_page

# Of Okabe and Ito, told apart with every kind of colour blindness; one a configuration.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_SIZE = (9.2, 3.2)
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True, eq=False)
class RunRow:
    """One run: `state` is waiting, finished or failed (then with a reason); `folder` is relative to the report."""

    configuration: str
    fold: int
    folder: str
    state: str
    reason: str
    dice: float | None
    seconds: float | None
    history: Sequence[Record] = ()


@dataclass(frozen=True, eq=False)
class StudyData:
    """What the report of a study says.

    `pooled` holds `metrics.aggregate` of all folds by configuration, with its "folds". `reasons` are those of the
    configurations and of the study, `notes` what was left out, `recipe` is (key, value, origin) for every key.
    `sections` are further ones, (title, HTML) by key.
    """

    title: str
    model: str
    dataset: str
    runs: Sequence[RunRow]
    pooled: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]
    notes: Sequence[str] = ()
    recipe: Sequence[tuple[str, str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    phantom: bool = False
    sections: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def write_study_report(folder: Path, data: StudyData) -> Path:
    """Write `report.html` into a folder and return its path. Raises DataError if it cannot be written."""
    return write_page(folder / "report.html", render_study(data))


def render_study(data: StudyData) -> str:
    """Return the whole page."""
    curves = _curves(data)
    made = {
        "folds": ("Folds", _folds(data)),
        "classes": ("Classes, all folds together", _classes(data)),
        **data.sections,
        "runs": ("Runs", _runs(data)),
        "curves": ("Learning curves", "" if curves is None else f"<div class=curves><div>{svg(curves)}</div></div>"),
        "reasons": ("Decisions", pairs(data.reasons, ("Decision", "Reason")) if data.reasons else ""),
        "recipe": ("Recipe", recipe_section(data.recipe) if data.recipe else ""),
        "versions": ("Versions", pairs(data.versions, ("Package", "")) if data.versions else ""),
    }
    sections = {key: (title, body) for key, (title, body) in made.items() if body}
    lead = (f"<div class=note>{PHANTOM}</div>" if data.phantom else "") + _notes(data) + tiles(_facts(data))
    return render_html(Page(data.title, _head(data), lead, sections, data.versions.get("unetkit", "")))


def best_configuration(pooled: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the configuration of the highest cross-validated Dice; None if none has one."""
    scored = {name: summary["dice"] for name, summary in pooled.items() if math.isfinite(summary["dice"])}
    return max(scored, key=scored.__getitem__) if scored else None


def _head(data: StudyData) -> str:
    best = best_configuration(data.pooled)
    value, said = "n/a", "no configuration has all its folds yet"
    if best is not None:
        low, high = data.pooled[best]["mean"]["dice"]["ci95"]
        interval = f"95 % CI {low:.3f} to {high:.3f} over cases" if math.isfinite(low) else "no interval"
        value, said = number("dice", data.pooled[best]["dice"]), f"cross-validated Dice of {escape(best)}<br>{interval}"
    return (
        "<header><div class=head><div><p class=kind>Study report</p>"
        f"<h1>{escape(data.title)}</h1><p>{escape(data.model)} on {escape(data.dataset)}</p></div>"
        f"<div class=score><b>{value}</b><span>{said}</span></div></div></header>"
    )


def _notes(data: StudyData) -> str:
    notes = "".join(f"<div class=note>{escape(note)}</div>" for note in data.notes)
    lost = [run for run in data.runs if run.state != "finished"]
    if lost:
        named = "".join(
            f"<li><b>{escape(run.folder)}</b>: {escape(run.reason or 'not trained yet')}</li>" for run in lost
        )
        notes += (
            f'<div class="note fault"><b>Not finished: {len(lost)} of {len(data.runs)} runs.</b> Numbers of their '
            f"configurations are missing below.<ul>{named}</ul></div>"
        )
    return notes


def _facts(data: StudyData) -> dict[str, str]:
    hours = sum(run.seconds or 0 for run in data.runs) / 3600
    return {
        "Configurations": str(len(dict.fromkeys(run.configuration for run in data.runs))),
        "Runs": str(len(data.runs)),
        "Cases scored": str(max((summary["cases"] for summary in data.pooled.values()), default=0)),
        "Training time": f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min",
    }


def _folds(data: StudyData) -> str:
    """Dice by configuration and fold; means over cases, and over folds with their spread."""
    folds = sorted({run.fold for run in data.runs})
    head = ["Configuration", *(f"Fold {fold}" for fold in folds), "All cases", "95 % CI", "Mean of folds"]
    rows = []
    for name in dict.fromkeys(run.configuration for run in data.runs):
        by_fold = {run.fold: _known(run.dice) for run in data.runs if run.configuration == name}
        cells = "".join(_score(by_fold.get(fold, math.nan)) for fold in folds)
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}{_together(data.pooled.get(name))}</tr>")
    text = (
        "Mean foreground Dice of the validation cases of each fold, by the run that did not train on them. All cases: "
        "every case once, with the bootstrap interval over cases. Mean of folds: with the standard deviation between "
        "folds."
    )
    return f"<p>{text}</p>{table(head, rows, 'numbers')}"


def _together(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "<td>n/a</td>" * 3
    low, high = summary["mean"]["dice"]["ci95"] if "dice" in summary["mean"] else (math.nan, math.nan)
    folds = summary["folds"]
    spread = f" ± {folds['std']:.3f}" if math.isfinite(folds["std"]) else ""
    interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "n/a"
    return f"{_score(summary['dice'])}<td>{interval}</td><td>{number('dice', folds['mean'])}{spread}</td>"


def _score(value: float) -> str:
    return f'<td style="{heat(value)}">{number("dice", value)}</td>'


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _classes(data: StudyData) -> str:
    """Dice of each class by configuration, all folds together, with intervals."""
    names = list(dict.fromkeys(name for summary in data.pooled.values() for name in summary["classes"]))
    if not names:
        return ""
    rows = []
    for name in names:
        cells = ""
        for summary in data.pooled.values():
            dice = summary["classes"].get(name, {}).get("dice", {"mean": math.nan, "ci95": (math.nan, math.nan)})
            low, high = dice["ci95"]
            interval = f" <small>{low:.3f} to {high:.3f}</small>" if math.isfinite(low) else ""
            cells += f'<td style="{heat(dice["mean"])}">{number("dice", dice["mean"])}{interval}</td>'
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    return table(["Class", *(escape(name) for name in data.pooled)], rows, "numbers")


def _runs(data: StudyData) -> str:
    rows = []
    for run in data.runs:
        steps = max((record["step"] for record in run.history), default=0)
        name = escape(run.folder)
        # relative, so that the study's folder can be moved or copied as a whole
        shown = f'<a href="{name}/report.html">{name}</a>' if run.state == "finished" else name
        time = "n/a" if run.seconds is None else f"{run.seconds / 60:.1f} min"
        cells = (
            f"<td>{escape(run.state)}</td><td>{number('dice', _known(run.dice))}</td><td>{steps}</td><td>{time}</td>"
        )
        rows.append(f"<tr><th scope=row>{shown}</th>{cells}</tr>")
    return table(["Run", "State", "Dice", "Steps", "Training time"], rows, "numbers")


def _curves(data: StudyData) -> Figure | None:
    """Loss and validation Dice of all runs over the epochs: a colour a configuration, a line style a fold."""
    drawn = [run for run in data.runs if any("epoch_loss" in record for record in run.history)]
    if not drawn:
        return None
    figure = Figure(figsize=_SIZE, layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    colours = {
        name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(dict.fromkeys(r.configuration for r in data.runs))
    }
    for run in drawn:
        style = {"color": colours[run.configuration], "linestyle": _STYLES[run.fold % len(_STYLES)], "linewidth": 1.2}
        _draw(left, run, "epoch_loss", style)
        _draw(right, run, "val_dice", style)
    for axis, title in ((left, "training loss"), (right, "validation Dice")):
        dress(axis)
        label(axis, title, "epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False)
    return figure


def _draw(axis: Axes, run: RunRow, key: str, style: Mapping[str, Any]) -> None:
    points = [(record["epoch"], record[key]) for record in run.history if record.get(key) is not None]
    # without a mark a run that was validated once would leave nothing to see
    marks: dict[str, Any] = {"marker": "o" if len(points) < 30 else "", "markersize": 3}
    axis.plot([x for x, _ in points], [y for _, y in points], label=run.folder, **style, **marks)
