"""What a data set measures as one HTML page, from the plain tree of fingerprint.json."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from unetkit.report.fingerprint_figures import Tree
from unetkit.report.fingerprint_sections import (
    case_section,
    class_section,
    intensity_section,
    notes_of,
    odd_section,
    size_section,
    times,
)
from unetkit.report.page import Page, render_html, tiles
from unetkit.report.tables import pairs


def render_fingerprint(tree: Tree, name: str, version: str, reasons: Mapping[str, Mapping[str, str]]) -> str:
    """Return the page of a data set; `reasons` explain the plans that were made of it, by configuration."""
    head = (
        "<header><div class=head><div><p class=kind>Data report</p>"
        f"<h1>{escape(name)}</h1><p>{tree['dims']}D · {escape(', '.join(tree['channels']))}</p></div>"
        f"<div class=score><b>{len(tree['cases'])}</b><span>cases measured<br>each weighs the same</span></div>"
        "</div></header>"
    )
    sections = {
        "sizes": ("Sizes and spacings", size_section(tree)),
        "intensities": ("Intensities", intensity_section(tree)),
        "classes": ("Classes", class_section(tree)),
        "odd": ("Odd cases", odd_section(tree)),
        "cases": ("Cases", case_section(tree)),
    }
    sections |= {
        f"plan_{configuration}": (f"Plan {configuration}", pairs(of_plan, ("Decision", "Reason")))
        for configuration, of_plan in reasons.items()
    }
    shown = {key: (title, body) for key, (title, body) in sections.items() if body}
    return render_html(Page(name, head, notes_of(tree) + tiles(_facts(tree)), shown, version))


def _facts(tree: Tree) -> dict[str, str]:
    shown = {"Classes": str(len(tree["labels"]["classes"])), "Median size": times(np.median(tree["shapes"], axis=0))}
    if tree["dims"] == 3:
        shown["Median spacing"] = f"{times(np.median(tree['spacings'], axis=0))} mm"
    kept = [np.prod(c) / np.prod(s) for c, s in zip(tree["cropped"], tree["shapes"], strict=True)]
    codes = {facts["orientation"] for facts in tree["facts"] if facts["orientation"]}
    labelled = np.median([facts["labelled"] for facts in tree["facts"]])
    return shown | {
        "Left after cutting zeros": f"{np.median(kept):.0%}",
        "Labelled": f"{100 * labelled:.3g} % of a case",
        "Voxels": ", ".join(tree["dtypes"]),
        **({"Stored as": ", ".join(sorted(codes))} if codes else {}),
        "Odd cases": str(len({odd["case"] for odd in tree["odd"]})),
    }
