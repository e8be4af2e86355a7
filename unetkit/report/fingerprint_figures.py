"""Drawings of what a data set measures, from the plain tree of fingerprint.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from unetkit.report.figures import INK, LINE, MUTED, SECOND, dress, label

Tree = Mapping[str, Any]
_WIDTH, _HEIGHT = 4.6, 3.0  # inches
_ROW = 0.26
_WIDE = 30
_MOST_POINTS = 800
"""More points than these go into the page as one picture: each would be an element of its own."""
# steps of the golden ratio spread any number of points evenly, and the same way each time
_GOLDEN = 0.618034


def strip_figure(groups: Mapping[str, Sequence[float]], title: str, unit: str) -> Figure:
    """Return one row of points for each group, with a bar at its median."""
    figure, axis = _axes(len(groups))
    heavy = sum(len(values) for values in groups.values()) > _MOST_POINTS
    for row, values in enumerate(groups.values()):
        if not len(values):
            continue
        heights = row + 0.5 * ((np.arange(len(values)) * _GOLDEN) % 1 - 0.5)
        axis.plot(values, heights, "o", markersize=3.2, color=LINE, alpha=0.45, mec="none", rasterized=heavy)
        axis.plot([np.median(values)] * 2, [row - 0.36, row + 0.36], color=SECOND, linewidth=1.8)
    every = np.concatenate([np.zeros(0), *(np.asarray(values, float) for values in groups.values())])
    if not _logarithmic(axis, every) and (every == np.rint(every)).all():
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _rows(axis, list(groups), title, unit)
    return figure


def _logarithmic(axis: Axes, values: np.ndarray) -> bool:
    """Make the axis of values logarithmic if they differ by more than 30, and say whether it is."""
    if not len(values) or values.min() <= 0 or values.max() <= _WIDE * values.min():
        return False
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    return True


def bar_figure(values: Mapping[str, float], title: str, unit: str) -> Figure:
    """Return one horizontal bar for each name, on a logarithmic axis where the values differ by more than 30."""
    figure, axis = _axes(len(values))
    heights = list(values.values())
    axis.barh(range(len(heights)), heights, height=0.62, color=LINE, alpha=0.75)
    positive = np.asarray([value for value in heights if value > 0])
    if _logarithmic(axis, positive):
        axis.set_xlim(left=positive.min() / 2)
    _rows(axis, list(values), title, unit)
    return figure


def intensity_figure(name: str, seen: Tree) -> Figure:
    """Return the bars of one channel's foreground intensities, with the limits that CT is clipped at and the median."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", dpi=150)
    axis = figure.subplots()
    dress(axis)
    edges, shares = np.asarray(seen["edges"]), 100 * np.asarray(seen["shares"])
    axis.stairs(shares, edges, fill=True, color=LINE, alpha=0.75)
    for value, text in ((seen["low"], "0.5 %"), (seen["high"], "99.5 %"), (seen["median"], "median")):
        axis.axvline(value, color=SECOND, linewidth=1.2, linestyle="-" if text == "median" else "--")
    widths = np.diff(edges)
    if widths.max() > 2 * widths.min():  # bars that grow outward: drawn equally wide
        quantiles = seen["quantiles"]
        bend, middle = quantiles["75"] - quantiles["25"], seen["median"]
        axis.set_xscale(
            "function",
            functions=(lambda x: np.arcsinh((x - middle) / bend), lambda y: middle + bend * np.sinh(y)),
        )
        axis.xaxis.set_major_locator(FixedLocator(_decades(edges[0], edges[-1], bend)))
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_ylim(0, 1.25 * max(shares))
    axis.text(
        0.985,
        0.97,
        f"0.5 %: {seen['low']:.5g}\nmedian: {seen['median']:.5g}\n99.5 %: {seen['high']:.5g}",
        transform=axis.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=SECOND,
        linespacing=1.35,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
    label(axis, f"foreground of {name}", "intensity")
    axis.set_ylabel("% of the weight", fontsize=8, color=MUTED)
    return figure


def _decades(low: float, high: float, bend: float) -> list[float]:
    """Return 0 and powers of ten of either sign that lie in a range, from about `bend` on."""
    powers = [10.0**n for n in range(int(np.floor(np.log10(bend))), int(np.log10(max(abs(low), abs(high), 10))) + 1)]
    return [value for value in (*(-p for p in powers), 0.0, *powers) if low <= value <= high]


def _axes(rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, max(1.7, 0.75 + _ROW * rows)), layout="constrained", dpi=150)
    axis = figure.subplots()
    dress(axis)
    return figure, axis


def _rows(axis: Axes, names: Sequence[str], title: str, unit: str) -> None:
    label(axis, title, unit)
    axis.set_yticks(range(len(names)), [name if len(name) < 28 else f"{name[:26]}…" for name in names], color=INK)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axis.grid(visible=False, axis="y")
