"""The report of a pretraining: what the network was shown and made of it, the loss, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unetkit.report.figures import INK, curve_figures, data_uri, png, svg
from unetkit.report.page import PHANTOM, Page, recipe_section, render_html, tiles
from unetkit.report.tables import pairs
from unetkit.report.write import write_page, write_picture

PICTURE = "pretraining.png"


@dataclass(frozen=True, eq=False)
class PretrainData:
    """Everything that the report says.

    `score` and `score_name` stand at the head. `panels`: of each sample the pictures uint8 [H, W, 3] by what they
    show, alike for all; `samples` are their names. The other fields are as in ReportData.
    """

    title: str
    model: str
    dataset: str
    score: str
    score_name: str
    samples: Sequence[str]
    panels: Sequence[Mapping[str, np.ndarray]]
    facts: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    recipe: Sequence[tuple[str, str, str]] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    phantom: bool = False


def write_pretrain_report(folder: Path, data: PretrainData) -> tuple[Path, Path]:
    """Write `report.html` and `pictures/pretraining.png` below a folder and return both paths.

    Raises DataError if they cannot be written.
    """
    picture = write_picture(folder / "pictures" / PICTURE, png(_figure(data)))
    return write_page(folder / "report.html", render_pretraining(data)), picture


def render_pretraining(data: PretrainData) -> str:
    """Return the whole page."""
    drawn = [svg(figure) for figure in curve_figures(data.history).values()]
    tables = [(data.machine, "Machine"), (data.versions, "Package")]
    made = {
        "pictures": ("Samples", "".join(map(_card, data.samples, data.panels))),
        "curves": ("Training", f"<div class=curves>{''.join(f'<div>{one}</div>' for one in drawn)}</div>"),
        "plan": ("Plan", pairs(data.reasons, ("Decision", "Reason")) if data.reasons else ""),
        "recipe": ("Recipe", recipe_section(data.recipe) if data.recipe else ""),
        "versions": ("Versions and machine", "".join(pairs(values, (name, "")) for values, name in tables if values)),
    }
    lead = (f"<div class=note>{PHANTOM}</div>" if data.phantom else "") + tiles(data.facts)
    sections = {key: (title, body) for key, (title, body) in made.items() if body}
    return render_html(Page(data.title, _head(data), lead, sections, data.versions.get("unetkit", "")))


def _head(data: PretrainData) -> str:
    return (
        "<header><div class=head><div><p class=kind>Pretraining report</p>"
        f"<h1>{escape(data.title)}</h1><p>{escape(data.model)} on {escape(data.dataset)}, without labels</p></div>"
        f"<div class=score><b>{escape(data.score)}</b><span>{escape(data.score_name)}</span></div></div></header>"
    )


def _card(sample: str, panels: Mapping[str, np.ndarray]) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(name)} of {escape(sample)}" src="{data_uri(pixels)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in panels.items()
    )
    return f"<div class=case><h3>{escape(sample)}</h3><div class=panels>{figures}</div></div>"


def _figure(data: PretrainData) -> Figure:
    """Return all panels, a row for each sample."""
    rows, columns = len(data.panels), max(map(len, data.panels))
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, sample, panels in zip(axes, data.samples, data.panels, strict=True):
        for axis, (name, pixels) in zip(row, panels.items(), strict=True):
            axis.imshow(pixels, interpolation="nearest")
            axis.set_title(f"{sample}: {name}", fontsize=7, color=INK)
            axis.set_axis_off()
    return figure
