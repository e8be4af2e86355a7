"""The sections that tell what a data set measures, from the plain tree of fingerprint.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unetkit.report.figures import svg
from unetkit.report.fingerprint_figures import Tree, bar_figure, intensity_figure, strip_figure
from unetkit.report.tables import MOST_CASES, table

_RAS = ("left to right", "back to front", "foot to head")
_PLANE = ("height", "width")


def data_section(tree: Tree) -> str:
    """Return what a run's report says of its training data: notes, intensities and class sizes."""
    drawn = [intensity_figure(n, seen) for n, seen in _drawable(tree)]
    text = f"What was measured of the {len(tree['cases'])} training cases; fingerprint.json holds all of it."
    return f"<p>{text}</p>{notes_of(tree)}{_curves([*drawn, *_class_figures(tree)[:1]])}"


def notes_of(tree: Tree) -> str:
    """Return what is worth knowing of the set as a whole."""
    named = "".join(f"<li>{escape(note)}</li>" for note in tree["notes"])
    return f"<div class=note><b>Worth knowing</b><ul>{named}</ul></div>" if named else ""


def _class_sizes(tree: Tree) -> dict[str, list[float]]:
    """mL of volumes, pixels of pictures, in the cases that have the class."""
    return {name: [size for size in _sizes_in_cases(tree, index) if size] for index, name in enumerate(_names(tree))}


def _sizes_in_cases(tree: Tree, index: int) -> list[float]:
    factors = [float(np.prod(s)) / 1000 if tree["dims"] == 3 else 1.0 for s in tree["spacings"]]
    return [facts["voxels"][index] * factor for facts, factor in zip(tree["facts"], factors, strict=True)]


def size_section(tree: Tree) -> str:
    """Return size, spacing and extent along each axis."""
    axes = _RAS if tree["dims"] == 3 else _PLANE
    shapes, spacings = np.asarray(tree["shapes"]), np.asarray(tree["spacings"], dtype=float)
    cropped = np.asarray(tree["cropped"])
    drawn = [strip_figure(dict(zip(axes, shapes.T, strict=True)), "size of the images", "voxels")]
    if (cropped != shapes).any():
        drawn.append(strip_figure(dict(zip(axes, cropped.T, strict=True)), "after cutting the zero border", "voxels"))
    if tree["dims"] == 3:
        drawn.append(strip_figure(dict(zip(axes, spacings.T, strict=True)), "spacing", "mm"))
        drawn.append(strip_figure(dict(zip(axes, (shapes * spacings).T, strict=True)), "extent", "mm"))
    text = "A point is a case, the orange bar the median."
    text += " Axes are those of the body, whatever the order in the files." if tree["placed"] else ""
    return f"<p>{text}</p>{_curves(drawn)}"


def _drawable(tree: Tree) -> list[tuple[str, Tree]]:
    return [(name, seen) for name, seen in zip(tree["channels"], tree["intensities"], strict=True) if seen["quantiles"]]


def intensity_section(tree: Tree) -> str:
    """Return how the foreground of each channel is distributed."""
    channels = _drawable(tree)
    drawn = [intensity_figure(name, seen) for name, seen in channels]
    for index, (name, _) in enumerate(channels):
        means = [facts["foreground"][index]["mean"] for facts in tree["facts"] if facts["foreground"]]
        drawn.append(
            strip_figure({"foreground": means, "whole image": _means(tree, index)}, f"mean of {name}", "a case")
        )
    columns = list(channels[0][1]["quantiles"]) if channels else []
    head = ["Channel", "Lowest", *(f"{share} %" for share in columns), "Highest", "Mean", "Deviation"]
    rows = (
        f"<tr><th scope=row>{escape(name)}</th>"
        + _cells(seen["minimum"], *seen["quantiles"].values(), seen["maximum"], seen["mean"], seen["std"])
        + "</tr>"
        for name, seen in channels
    )
    text = "Voxels of any class, all of them and none drawn by chance; every case weighs the same, however many it has."
    return f"<p>{text}</p>{_curves(drawn)}<p></p>{table(head, rows, 'numbers')}"


def _means(tree: Tree, channel: int) -> list[float]:
    return [facts["image"][channel]["mean"] for facts in tree["facts"]]


def _class_figures(tree: Tree) -> list[Figure]:
    names, total = _names(tree), max(sum(tree["voxels"].values()), 1)
    unit = "mL" if tree["dims"] == 3 else "pixels"
    drawn = [strip_figure(_class_sizes(tree), "size of the classes in a case", unit)]
    shares = {name: 100 * tree["voxels"][name] / total for name in names}
    drawn.append(bar_figure(shares, "share of all labelled voxels", "%"))
    counted = [facts for facts in tree["facts"] if facts["components"] is not None]
    pieces = {name: [f["components"][i] for f in counted if f["components"][i]] for i, name in enumerate(names)}
    if any(max(numbers, default=1) > 1 for numbers in pieces.values()):
        drawn.append(strip_figure(pieces, "components in a case", "number"))
    return drawn


def class_section(tree: Tree) -> str:
    """Return size, frequency and components of each class."""
    unit = "mL" if tree["dims"] == 3 else "pixels"
    head = ["Class", "Cases", "Share", *(f"{word} <small>{unit}</small>" for word in ("Smallest", "Median", "Largest"))]
    head += ["Components", "Most", "Smallest component <small>voxels</small>"]
    rows = (_class_row(tree, index, name) for index, name in enumerate(_names(tree)))
    text = (
        "Sizes are over the cases that have the class, the share is of all labelled voxels. Components: the median "
        "number in a case, and the most; voxels that touch at a corner belong together."
    )
    return f"<p>{text}</p>{_curves(_class_figures(tree))}<p></p>{table(head, rows, 'numbers')}"


def _class_row(tree: Tree, index: int, name: str) -> str:
    sizes = [size for size in _sizes_in_cases(tree, index) if size]
    counted = [facts for facts in tree["facts"] if facts["components"] is not None and facts["components"][index]]
    pieces = [facts["components"][index] for facts in counted]
    cells = f"<td>{len(sizes)} of {len(tree['cases'])}</td>"
    cells += f"<td>{100 * tree['voxels'][name] / max(sum(tree['voxels'].values()), 1):.3g} %</td>"
    cells += _cells(*((min(sizes), np.median(sizes), max(sizes)) if sizes else (None,) * 3))
    cells += _cells(*((np.median(pieces), max(pieces)) if pieces else (None,) * 2))
    cells += _cells(min((facts["smallest"][index] for facts in counted), default=None))
    return f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>"


def odd_section(tree: Tree) -> str:
    """Return the cases that stand out, or nothing."""
    rows = [
        f"<tr><th scope=row>{escape(odd['case'])}</th><td>{escape(odd['what'])}</td><td>{escape(odd['why'])}</td></tr>"
        for odd in tree["odd"][:MOST_CASES]
    ]
    text = "Far from the median of the others (more than 3.5 robust deviations): worth a look, not necessarily wrong."
    return f"<p>{text}</p>{table(['Case', 'In', 'Value'], rows, 'words')}" if rows else ""


def case_section(tree: Tree) -> str:
    """Return a table of the cases."""
    head = ["Case", "Size", "After crop", "Type", "Labelled", "Classes", "Components"]
    head[3:3] = ["Spacing <small>mm</small>", "Stored as"] if tree["dims"] == 3 else []
    head += [f"{escape(name)} <small>foreground</small>" for name in tree["channels"]]
    odd = {one["case"] for one in tree["odd"]}
    rows = [_case_row(tree, number, odd) for number in range(min(len(tree["cases"]), MOST_CASES))]
    more = f"<p>The first {MOST_CASES} of {len(tree['cases'])}; fingerprint.json holds all.</p>"
    return (more if len(tree["cases"]) > MOST_CASES else "") + table(head, rows, "numbers")


def _case_row(tree: Tree, number: int, odd: set[str]) -> str:
    case, facts = tree["cases"][number], tree["facts"][number]
    texts = [times(tree["shapes"][number]), times(tree["cropped"][number])]
    if tree["dims"] == 3:
        texts += [times(tree["spacings"][number]), facts["orientation"] or "-"]
    texts += [facts["dtype"], f"{100 * facts['labelled']:.3g} %", str(sum(n > 0 for n in facts["voxels"]))]
    texts.append("-" if facts["components"] is None else str(sum(facts["components"])))
    if facts["foreground"]:
        texts += [f"{seen['mean']:.4g} ± {seen['std']:.3g}" for seen in facts["foreground"]]
    else:
        texts += ["-"] * len(tree["channels"])
    mark = " ⚑" if case in odd else ""
    return f"<tr><th scope=row>{escape(case)}{mark}</th>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"


def _curves(figures: Sequence[Figure]) -> str:
    return f"<div class=curves>{''.join(f'<div>{svg(figure)}</div>' for figure in figures)}</div>"


def _cells(*values: Any) -> str:
    return "".join(f"<td>{'-' if value is None else _plain(value)}</td>" for value in values)


def _plain(value: float) -> str:
    # 274490 is easier to compare than 2.7449e+05
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.5g}"


def _names(tree: Tree) -> list[str]:
    return list(tree["labels"]["classes"])


def times(values: Iterable[float]) -> str:
    """Return numbers as a size."""
    return " x ".join(f"{value:.4g}" for value in values)
