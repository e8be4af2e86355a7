"""Pictures of a benchmark as SVG that a page holds within itself: accuracy against cost, and ranks with cliques."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from unetkit.bench.analysis import pareto
from unetkit.bench.names import Place, place_names

# Of Okabe and Ito, told apart with every kind of colour blindness; one a family.
COLOURS = {
    "cnn": "#0072b2",
    "transformer": "#d55e00",
    "hybrid": "#cc79a7",
    "ssm": "#009e73",
    "xlstm": "#e69f00",
    "rwkv": "#56b4e9",
}
_OTHER = "#5b6877"
_WIDE, _HIGH, _LEFT, _BOTTOM, _TOP, _RIGHT = 860, 430, 62, 48, 18, 24
_LINE = 22


@dataclass(frozen=True)
class Point:
    """A model in a plot: how good, with its interval, at which cost."""

    name: str
    family: str
    score: float
    low: float
    high: float
    cost: float


def colour_of(family: str) -> str:
    """Return the colour of a family."""
    return COLOURS.get(family, _OTHER)


def pareto_plot(points: Sequence[Point], axis: str, unit: str, metric: str) -> str:
    """Return accuracy over the logarithm of a cost; models that no other beats in both are named and joined."""
    logs = [math.log10(p.cost) for p in points]
    low, high = _padded(min(logs), max(logs), 0.15)
    bottom, top = _padded(min(p.low for p in points), max(p.high for p in points), 0.01)

    def x(cost: float) -> float:
        return _LEFT + (math.log10(cost) - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)

    def y(score: float) -> float:
        return _HIGH - _BOTTOM - (score - bottom) / (top - bottom) * (_HIGH - _BOTTOM - _TOP)

    front = pareto([p.score for p in points], [p.cost for p in points])
    path = " ".join(f"{x(points[i].cost):.1f},{y(points[i].score):.1f}" for i in sorted(front, key=lambda i: logs[i]))
    grid = [_across(value, y(value)) for value in _ticks(bottom, top)]
    grid += [_down(value, x(value)) for value in _decades(low, high)]
    # Those that are always seen choose their places first, the best of them before the others.
    order = sorted(range(len(points)), key=lambda i: (i not in front, -points[i].score))
    spots = [(x(points[i].cost), y(points[i].score)) for i in order]
    frame = (_LEFT, _TOP, _WIDE - 2, _HIGH - _BOTTOM)
    places = dict(zip(order, place_names([points[i].name for i in order], spots, frame), strict=True))
    marks = [
        _mark(p, x(p.cost), y(p.score), y(p.low), y(p.high), i in front, unit, places[i]) for i, p in enumerate(points)
    ]
    labels = (
        f'<text x="{(_WIDE + _LEFT) / 2}" y="{_HIGH - 8}" text-anchor="middle" font-size="13">{escape(axis)}</text>'
        f'<text transform="translate(15 {_HIGH / 2 - 10}) rotate(-90)" text-anchor="middle" font-size="13">'
        f"{escape(metric)}</text>"
    )
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(metric)} against {escape(axis)}">'
        f'{"".join(grid)}<polyline points="{path}" fill="none" stroke="#9aa7b4" stroke-dasharray="5 4"/>'
        f"{''.join(marks)}{labels}</svg>"
    )


def rank_diagram(names: Sequence[str], ranks: Sequence[float], cliques: Sequence[Sequence[int]]) -> str:
    """Return the critical-difference diagram: mean ranks on an axis, best left, bars over models that do not differ."""
    order = sorted(range(len(names)), key=lambda i: ranks[i])
    most, half = len(names), (len(names) + 1) // 2
    left, right, top = 190, _WIDE - 190, 34
    bars = len(cliques) * 9
    high = top + 24 + bars + _LINE * half + 8

    def x(rank: float) -> float:
        return left + (rank - 1) / max(most - 1, 1) * (right - left)

    parts = [f'<line x1="{left}" x2="{right}" y1="{top}" y2="{top}" stroke="#1d2733"/>']
    # Not more than a number every so often, however many models there are.
    for rank in range(1, most + 1, max(1, most // 12)):
        parts.append(
            f'<line x1="{x(rank):.1f}" x2="{x(rank):.1f}" y1="{top - 6}" y2="{top}" stroke="#1d2733"/>'
            f'<text x="{x(rank):.1f}" y="{top - 10}" text-anchor="middle" font-size="12">{rank}</text>'
        )
    for place, model in enumerate(order):
        first = place < half
        row = place if first else most - 1 - place
        level, end = top + 24 + bars + _LINE * row, left - 12 if first else right + 12
        anchor, label = ("end", end - 5) if first else ("start", end + 5)
        parts.append(
            f'<polyline points="{x(ranks[model]):.1f},{top} {x(ranks[model]):.1f},{level} {end},{level}" fill="none" '
            f'stroke="#5b6877"/><text x="{label}" y="{level + 4}" text-anchor="{anchor}" font-size="12.5">'
            f"{escape(names[model])} {ranks[model]:.2f}</text>"
        )
    for number, clique in enumerate(cliques):
        spots = [x(ranks[model]) for model in clique]
        level = top + 10 + 9 * number
        parts.append(
            f'<line x1="{min(spots) - 4:.1f}" x2="{max(spots) + 4:.1f}" y1="{level}" y2="{level}" stroke="#1d2733" '
            'stroke-width="4"/>'
        )
    return f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="mean ranks">{"".join(parts)}</svg>'


def family_colours(families: Sequence[str]) -> dict[str, str]:
    """Return the colours of the families that are there."""
    shown = [family for family in (*COLOURS, *sorted(set(families) - set(COLOURS))) if family in families]
    return {family: colour_of(family) for family in shown}


def legend(colours: Mapping[str, str]) -> str:
    """Return a key, as HTML, of what has which colour."""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in colours.items())
    return f"<ul class=legend>{items}</ul>"


def plots(drawn: Mapping[str, str], name: str) -> str:
    """Return several plots of which one is seen at a time; `name` tells their choice from those of other sections."""
    choices = "".join(
        f'<label><input type=radio name="{escape(name)}" value="{escape(axis)}"{" checked" if not i else ""}> '
        f"{escape(axis)}</label>"
        for i, axis in enumerate(drawn)
    )
    shown = "".join(
        f'<div class=plot data-axis="{escape(axis)}"{" hidden" if i else ""}>{svg}</div>'
        for i, (axis, svg) in enumerate(drawn.items())
    )
    return f"<div class=plots><div class=choice>{choices}</div>{shown}<div class=tip hidden></div></div>"


def _mark(p: Point, x: float, y: float, low: float, high: float, front: bool, unit: str, place: Place) -> str:
    tip = f"{p.name} ({p.family})\n{p.score:.3f} [{p.low:.3f}, {p.high:.3f}]\n{p.cost:.4g} {unit}"
    colour = colour_of(p.family)
    leader = (
        f'<line class=name x1="{x:.1f}" y1="{y:.1f}" x2="{place.x:.1f}" y2="{place.y - 4:.1f}" stroke="{colour}"/>'
        if place.led
        else ""
    )
    return (
        f'<g class="dot{" front" if front else ""}" tabindex=0 data-name="{escape(p.name)}" data-tip="{escape(tip)}">'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-opacity=".35" '
        f'stroke-width="2"/>{leader}<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}" stroke="#fff"/>'
        f'<text class=name x="{place.x:.1f}" y="{place.y:.1f}" text-anchor="{place.anchor}">{escape(p.name)}</text>'
        f"<title>{escape(tip)}</title></g>"
    )


def _across(value: float, y: float) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e8ee"/>'
        f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end" font-size="12" fill="#5b6877">{value:.3g}</text>'
    )


def _down(value: float, x: float) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HIGH - _BOTTOM}" stroke="#e3e8ee"/>'
        f'<text x="{x:.1f}" y="{_HIGH - _BOTTOM + 17}" text-anchor="middle" font-size="12" fill="#5b6877">'
        f"{value:g}</text>"
    )


def _padded(low: float, high: float, least: float) -> tuple[float, float]:
    margin = max(0.06 * (high - low), least)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return some five round values within a span."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each decade within a span of logarithms, or powers of ten alone where there are many."""
    heads = (1, 2, 5) if high - low < 3 else (1,)
    found = [h * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for h in heads]
    return [value for value in found if low <= math.log10(value) <= high]
