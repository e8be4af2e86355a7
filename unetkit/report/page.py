"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from unetkit.errors import counted
from unetkit.report.data import ReportData, Shown
from unetkit.report.figures import class_legend, curve_figures, data_uri, error_legend, panels, svg
from unetkit.report.fingerprint_sections import data_section
from unetkit.report.overlay import Colour
from unetkit.report.tables import MOST_CASES, case_table, class_table, number, pairs, recipe_table

_UNSCORED = "No case was scored, so that nothing here says how good the result is."
PHANTOM = (
    "These images are generated. A phantom proves that the code works: that data are read, a network learns, and "
    "results are measured. It says nothing about real images."
)


@dataclass(frozen=True)
class Page:
    """What a page is made of: HTML but for `title` and `version`; `lead` stands before the first section.

    `sections` are (title, body) by the key that links lead to.
    """

    title: str
    head: str
    lead: str
    sections: Mapping[str, tuple[str, str]]
    version: str


def render_page(data: ReportData) -> str:
    """Return the whole page of a run's report."""
    lead = f"{_notes(data)}{_facts(data)}"
    return render_html(Page(data.title, _head(data), lead, _sections(data), data.versions.get("unetkit", "")))


def render_html(page: Page) -> str:
    """Return a document that is complete in itself."""
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, (title, _) in page.sections.items())
    bodies = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, (title, body) in page.sections.items()
    )
    # The style goes into the page: one file that can be mailed, and that asks no server for anything.
    style = files("unetkit.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang=en><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)} · unetkit</title><style>{style}</style></head><body>"
        f"{page.head}<nav><div>{links}</div></nav><main>{page.lead}{bodies}</main>"
        f"<footer>unetkit {escape(page.version)} · this file is complete in itself</footer>"
        "</body></html>\n"
    )


def _sections(data: ReportData) -> dict[str, tuple[str, str]]:
    # In the order of reading: see it, then the numbers, then what they mean and where they come from.
    made = {
        "pictures": ("Best, median and worst case", _pictures(data) if data.pictures else ""),
        "classes": ("Classes", _classes(data) if data.rows else ""),
        "cases": ("Cases", _cases(data) if data.rows else ""),
        "curves": ("Training", _curves(data)),
        "data": ("Training data", data_section(data.fingerprint) if data.fingerprint else ""),
        "definitions": (
            "What the numbers mean",
            pairs(_definitions(data), ("Metric", "Definition")) if data.rows else "",
        ),
        "plan": ("Plan", pairs(data.reasons, ("Decision", "Reason")) if data.reasons else ""),
        "recipe": ("Recipe", recipe_section(data.recipe) if data.recipe else ""),
        "versions": ("Versions and machine", _versions(data) if data.versions or data.machine else ""),
    }
    return {key: (title, body) for key, (title, body) in made.items() if body}


def _head(data: ReportData) -> str:
    low, high = data.summary["mean"].get("dice", {}).get("ci95", (math.nan, math.nan))
    few = "no interval: fewer than 2 cases" if data.rows else "no case scored"
    interval = f"95 % CI {low:.3f} to {high:.3f} over cases" if math.isfinite(low) else few
    return (
        "<header><div class=head><div><p class=kind>Segmentation report</p>"
        f"<h1>{escape(data.title)}</h1><p>{escape(data.model)} on {escape(data.dataset)}</p></div>"
        f"<div class=score><b>{number('dice', data.summary['dice'])}</b>"
        f"<span>mean foreground Dice<br>{interval}</span></div></div></header>"
    )


def _notes(data: ReportData) -> str:
    notes = f"<div class=note>{PHANTOM}</div>" if data.phantom else ""
    notes += "" if data.rows else f"<div class=note>{_UNSCORED}</div>"
    if data.failures:
        number_of = counted(len(data.failures), "case")
        named = "".join(f"<li><b>{escape(case)}</b>: {escape(why)}</li>" for case, why in data.failures.items())
        notes += (
            f'<div class="note fault"><b>Not scored: {number_of}.</b> Every number on this page is without them.'
            f"<ul>{named}</ul></div>"
        )
    return notes


def _facts(data: ReportData) -> str:
    unit = data.definitions.get("unit", "mm")
    mean = data.summary["mean"]
    shown = {"Cases scored": str(data.summary["cases"]), "Classes": str(len(data.classes))}
    shown |= {"Mean IoU": number("iou", mean["iou"]["mean"])} if "iou" in mean else {}
    shown |= {"Mean HD95": f"{number('hd95', mean['hd95']['mean'])} {unit}"} if "hd95" in mean else {}
    shown |= {"Mean NSD": number("nsd", mean["nsd"]["mean"])} if "nsd" in mean else {}
    return tiles(shown | dict(data.facts))


def tiles(facts: Mapping[str, str]) -> str:
    """Return names and values as a row of tiles."""
    made = (f"<div><dl><dt>{escape(name)}</dt><dd>{escape(value)}</dd></dl></div>" for name, value in facts.items())
    return f"<div class=facts>{''.join(made)}</div>"


def _pictures(data: ReportData) -> str:
    cards = [_card(f"{role.capitalize()} case", shown, data) for role, shown in data.pictures.items()]
    return "<p>One slice of each, the one with the most foreground in prediction or reference.</p>" + "".join(cards)


def _card(title: str, shown: Shown, data: ReportData) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(name)} of case {escape(shown.case)}" src="{data_uri(pixels)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in panels(shown.picture, data.classes).items()
    )
    legends = _legend("Errors", error_legend(data.classes))
    if len(data.classes) > 1:
        legends = _legend("Classes", class_legend(shown.picture, data.classes)) + legends
    return (
        f"<div class=case><h3>{escape(title)}: {escape(shown.case)}</h3>"
        f"<p>Dice {number('dice', shown.dice)} · {escape(shown.picture.view)}</p>"
        f"<div class=panels>{figures}</div>{legends}</div>"
    )


def _legend(title: str, colours: Mapping[str, Colour]) -> str:
    items = (
        f'<li><i style="background:rgb({colour[0]},{colour[1]},{colour[2]})"></i>{escape(name)}</li>'
        for name, colour in colours.items()
    )
    return f"<ul class=legend><li><b>{title}</b></li>{''.join(items)}</ul>"


def _classes(data: ReportData) -> str:
    return (
        "<p>Means over the cases where a value is defined. Missed: the reference has the class, the prediction does "
        "not. False alarms: the other way round.</p>" + class_table(data)
    )


def _cases(data: ReportData) -> str:
    text = "Lowest mean Dice first. Orange is low, blue is high, n/a is undefined."
    if len(data.summary["classes"]) > 1:
        text = "Dice of each class. " + text + " Point at a cell to see all its metrics."
    if len(data.rows) > MOST_CASES:
        text += f" The {MOST_CASES} lowest of {len(data.rows)} cases; metrics.csv holds all."
    return f"<p>{text}</p>{case_table(data)}"


def _curves(data: ReportData) -> str:
    drawn = [svg(figure) for figure in curve_figures(data.history).values()]
    return f"<div class=curves>{''.join(f'<div>{one}</div>' for one in drawn)}</div>" if drawn else ""


def _definitions(data: ReportData) -> dict[str, str]:
    names = {"empty": "absent classes", "nsd": "NSD", "hd95": "HD95", "assd": "ASSD", "iou": "IoU", "dice": "Dice"}
    said = {names.get(key, key.replace("_", " ")): text for key, text in data.definitions.items() if key != "unit"}
    return said | {
        "mean": str(data.summary["aggregation"]),
        "interval": "percentile bootstrap of the mean, cases drawn with replacement",
    }


def recipe_section(recipe: Sequence[tuple[str, str, str]]) -> str:
    """Return (key, value, origin) of a recipe: what was chosen, and all of it folded away."""
    # What was chosen comes first; the rest is there for whoever wants to repeat it.
    own = [row for row in recipe if row[2] != "default"]
    rest = f"<details><summary>All {len(recipe)} keys</summary>{recipe_table(recipe)}</details>"
    if not own:
        return f"<p>Every key has its default.</p>{rest}"
    return f"<p>What differs from the defaults.</p>{recipe_table(own)}<p></p>{rest}"


def _versions(data: ReportData) -> str:
    tables = [(data.machine, "Machine"), (data.versions, "Package")]
    return f"<div class=two>{''.join(pairs(values, (head, '')) for values, head in tables if values)}</div>"
