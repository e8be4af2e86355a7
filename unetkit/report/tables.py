"""Tables of a report as HTML; every text that comes from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from unetkit.metrics import METRICS, Scores, case_mean
from unetkit.report.data import ReportData

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "volume_difference": "Volume",
    "hd95": "HD95",
    "assd": "ASSD",
    "nsd": "NSD",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap": "AP",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "aji": "AJI",
}
MOST_CASES = 200
# Orange to blue can be told apart with every kind of colour blindness, red to green cannot.
_LOW, _MIDDLE, _HIGH = (244, 190, 150), (252, 247, 236), (166, 208, 236)
_HEAT_FROM = 0.4


def number(metric: str, value: float) -> str:
    """Return a value as it stands in tables: distances with two digits, the volume difference in percent."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "∞"
    if metric == "volume_difference":
        return f"{100 * value:+.1f} %"
    return f"{value:.2f}" if metric in ("hd95", "assd") else f"{value:.3f}"


def heat(value: float) -> str:
    """Return the background of a score from 0 to 1: orange is low, blue is high, undefined has none."""
    if not math.isfinite(value):
        return ""
    # 0 to 1 from orange to the middle, 1 to 2 on to blue; all below _HEAT_FROM is as bad as can be.
    share = 2 * min(max((value - _HEAT_FROM) / (1 - _HEAT_FROM), 0), 1)
    ends = (_LOW, _MIDDLE) if share < 1 else (_MIDDLE, _HIGH)
    colour = np.asarray(ends[0]) + (share % 1 if share < 2 else 1) * np.subtract(ends[1], ends[0])
    return "background:#" + "".join(f"{round(part):02x}" for part in colour)


def table(head: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    """Return a table that scrolls by itself where it is too wide; head cells are HTML."""
    cells = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    return (
        f'<div class=scroll tabindex=0><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def pairs(values: Mapping[str, str], head: tuple[str, str]) -> str:
    """Return two columns, name and text."""
    rows = (f"<tr><th scope=row>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in values.items())
    return table([escape(cell) for cell in head], rows, "words")


def metrics_of(data: ReportData) -> list[str]:
    """Return the metrics that were measured, in their usual order."""
    return [metric for metric in METRICS if metric in data.summary["mean"]]


def titles_of(data: ReportData) -> list[str]:
    """Return their column heads with units."""
    unit = escape(data.definitions.get("unit", "mm"))
    return [TITLES[m] + (f" <small>{unit}</small>" if m in ("hd95", "assd") else "") for m in metrics_of(data)]


def class_table(data: ReportData) -> str:
    """Return the means of every class over the cases, with the interval of Dice and the counts of the undefined."""
    titles = titles_of(data)
    head = ["Class", titles[0], "95 % CI", *titles[1:], "Undefined", "Missed", "False alarm"]
    rows = [
        _class_row(name, data.summary["classes"][name], data.summary["presence"][name], data.summary["cases"])
        for name in data.summary["classes"]
    ]
    if len(rows) > 1:
        rows.append(_class_row("mean", data.summary["mean"], None, data.summary["cases"]))
    return table(head, rows, "numbers")


def _class_row(name: str, statistics: Mapping[str, Any], presence: Mapping[str, int] | None, cases: int) -> str:
    dice = statistics["dice"]
    cells = [f'<td style="{heat(dice["mean"])}"><b>{number("dice", dice["mean"])}</b></td>']
    low, high = dice["ci95"]
    cells.append(f"<td>{number('dice', low)} to {number('dice', high)}</td>" if math.isfinite(low) else "<td>n/a</td>")
    cells += [f"<td>{number(m, s['mean'])}</td>" for m, s in statistics.items() if m != "dice"]
    if presence is None:
        cells.append("<td></td>" * 3)
    else:
        cells.append(f"<td>{dice['undefined']} of {cases}</td>")
        cells.append(f"<td>{presence['missed']} of {presence['present']}</td>")
        cells.append(f"<td>{presence['false_alarms']} of {presence['absent']}</td>")
    kind = " class=total" if presence is None else ""
    return f"<tr{kind}><th scope=row>{escape(name)}</th>{''.join(cells)}</tr>"


def case_table(data: ReportData) -> str:
    """Return Dice of each case and class in colour, the lowest case first; the rest shows where one points."""
    names = list(data.summary["classes"])
    # A reader looks for what went wrong: lowest first, ties by name so that pages can be compared.
    ordered = sorted(data.rows.items(), key=lambda item: (_finite(case_mean(item[1], "dice")), item[0]))
    with_mean = len(names) > 1
    head = ["Case", *(["Mean"] if with_mean else []), *(escape(name) for name in names)]
    if not with_mean:
        head = ["Case", *titles_of(data)]
    rows = []
    for case, scores in ordered[:MOST_CASES]:
        cells = _class_cells(scores, names) if with_mean else _metric_cells(scores[names[0]], metrics_of(data))
        rows.append(f"<tr><th scope=row>{escape(case)}</th>{cells}</tr>")
    return table(head, rows, "numbers")


def _class_cells(scores: Scores, names: Sequence[str]) -> str:
    mean = case_mean(scores, "dice")
    cells = [f'<td style="{heat(mean)}"><b>{number("dice", mean)}</b></td>']
    for name in names:
        of_class = scores.get(name, {})
        told = ", ".join(f"{TITLES[m]} {number(m, of_class[m])}" for m in METRICS if m in of_class)
        value = of_class.get("dice", math.nan)
        cells.append(f'<td style="{heat(value)}" title="{escape(told)}">{number("dice", value)}</td>')
    return "".join(cells)


def _metric_cells(of_class: Mapping[str, float], metrics: Sequence[str]) -> str:
    # Colour only where 1 is best and 0 worst; distances have no such scale.
    bounded = {"dice", "iou", "nsd", "ap50", "pq", "aji"}
    return "".join(
        f'<td style="{heat(of_class[m]) if m in bounded else ""}">{number(m, of_class[m])}</td>' for m in metrics
    )


def _finite(value: float) -> float:
    """Undefined cases go last."""
    return value if math.isfinite(value) else math.inf


def recipe_table(recipe: Sequence[tuple[str, str, str]]) -> str:
    """Return every key with its value and origin; what is not a default stands out."""
    rows = (
        f"<tr{'' if origin == 'default' else ' class=own'}><th scope=row><code>{escape(key)}</code></th>"
        f"<td><code>{escape(value)}</code></td><td>{escape(origin)}</td></tr>"
        for key, value, origin in recipe
    )
    return table(["Key", "Value", "Origin"], rows, "words")
