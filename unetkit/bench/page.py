"""The report of a benchmark as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from unetkit.bench.analysis import ALPHAS, QUANTILES, Pair, Rating, Verdict
from unetkit.bench.drawings import Point, family_colours, legend, pareto_plot, plots, rank_diagram
from unetkit.bench.resampling import Draws
from unetkit.errors import counted
from unetkit.report.page import PHANTOM, Page, render_html, tiles
from unetkit.report.tables import TITLES, heat, number, pairs, table

_COSTS = (
    ("gflops", "operations", "GFLOPs"),
    ("params_m", "parameters", "M"),
    ("ms", "time of an image", "ms"),
    ("step_mb", "memory of a training step", "MB"),
)
_MOST_PAIRS = 40


@dataclass(frozen=True, eq=False)
class Part:
    """One tested data set: what it comes to, the costs of the models there, and means of further metrics."""

    title: str
    verdict: Verdict
    costs: Mapping[str, Mapping[str, Any]]
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metric -> model -> mean."""
    phantom: bool = False
    foreign: bool = False
    """Whether its networks were trained on another data set."""


@dataclass(frozen=True, eq=False)
class BenchData:
    """What the page says. `parts` are of one start (random or pretrained) only; `method` is (question, answer)."""

    title: str
    parts: Sequence[Part]
    together: tuple[tuple[str, ...], Draws] | None
    method: Mapping[str, str]
    failed: Mapping[str, str]
    waiting: int
    families: Mapping[str, str]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    gallery: str = ""


def render_bench(data: BenchData) -> str:
    """Return the whole page."""
    own = files("unetkit.bench")
    style, script = (own.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    sections = {"together": ("All data sets", _together(data))} if data.together else {}
    if len(data.parts) > 1:
        sections["heat"] = ("Models and data sets", _heat_map(data))
    for number_of, part in enumerate(data.parts):
        sections[f"part{number_of}"] = (part.title, _part(part, f"axis{number_of}", data.families))
    if data.gallery:
        sections["cases"] = ("Cases that models disagree on", data.gallery)
    sections["method"] = ("How this was measured", pairs(data.method, ("Question", "Answer")))
    tables = [(data.machine, "Machine"), (data.versions, "Package")]
    versions = "".join(pairs(values, (head, "")) for values, head in tables if values)
    # At the end, when all that it works on is there.
    sections["versions"] = ("Versions and machine", f"<div class=two>{versions}</div><script>{script}</script>")
    lead = f"<style>{style}</style>{_notes(data)}{tiles(_facts(data))}"
    return render_html(Page(data.title, _head(data), lead, sections, data.versions.get("unetkit", "")))


def _head(data: BenchData) -> str:
    first = data.parts[0].verdict
    models, draws = data.together or (first.scores.models, first.draws)
    best = int(np.argmax(draws.means))
    low, high = _interval(draws, best)
    alike = sum(not draws.separable(best, other) for other in range(len(models)) if other != best)
    level = f"; {counted(alike, 'model')} not separable from it" if alike else "; ahead of all others"
    where = "mean over data sets" if data.together else escape(data.parts[0].title)
    return (
        "<header><div class=head><div><p class=kind>Benchmark report</p>"
        f"<h1>{escape(data.title)}</h1><p>{counted(len(data.families), 'model')} on "
        f"{counted(len(data.parts), 'data set')}</p></div>"
        f"<div class=score><b>{draws.means[best]:.3f}</b><span>{escape(models[best])}: best "
        f"{TITLES[first.scores.metric]}, {where}<br>95 % CI {low:.3f} to {high:.3f}{level}</span></div></div></header>"
    )


def _notes(data: BenchData) -> str:
    notes = f"<div class=note>{PHANTOM}</div>" if any(part.phantom for part in data.parts) else ""
    if data.failed:
        named = "".join(f"<li><b>{escape(job)}</b>: {escape(why)}</li>" for job, why in data.failed.items())
        notes += (
            f'<div class="note fault"><b>Failed: {counted(len(data.failed), "job")}.</b> Their models have fewer runs, '
            f"or are missing where all runs failed.<ul>{named}</ul></div>"
        )
    if data.waiting:
        notes += (
            f"<div class=note>Not finished: {counted(data.waiting, 'job')}. Everything here may still change.</div>"
        )
    if min(_runs(data)) == 1:
        notes += (
            "<div class=note>Some models were trained only once: how much another training would differ is not in "
            "their intervals, which are too narrow for that.</div>"
        )
    return notes


def _runs(data: BenchData) -> set[int]:
    """Return how many runs models have on data sets."""
    values = [part.verdict.scores.values for part in data.parts]
    return {int(n) for v in values for n in (~np.isnan(v).all(axis=2)).sum(axis=1)}


def _facts(data: BenchData) -> dict[str, str]:
    scores, runs = [part.verdict.scores for part in data.parts], _runs(data)
    return {
        "Models": str(len(data.families)),
        "Data sets": str(len(data.parts)),
        "Runs of each model": str(next(iter(runs))) if len(runs) == 1 else f"{min(runs)} to {max(runs)}",
        "Test cases": str(sum(len(s.cases) for s in scores)),
    }


def _together(data: BenchData) -> str:
    assert data.together is not None
    models, draws = data.together
    foreign = ", but for those whose networks were trained on others" if any(p.foreign for p in data.parts) else ""
    order = np.argsort(-draws.means, kind="stable")
    rows = [_row(models[i], data.families, draws, int(i)) for i in order]
    return (
        f"<p>Every data set counts alike{foreign}. Intervals draw cases anew and add the chance of training, for each "
        f"data set by itself. Ranks hold over the draws with a mean Kendall tau of {draws.stability():.2f}.</p>"
        + _sortable(["Model", "Family", "Mean", "95 % CI", "Rank, 95 %", "First"], rows)
    )


def _heat_map(data: BenchData) -> str:
    means = [dict(zip(p.verdict.scores.models, p.verdict.draws.means, strict=True)) for p in data.parts]
    names = sorted(data.families, key=lambda m: -float(np.mean([of[m] for of in means if m in of] or [0])))
    rows = []
    for name in names:
        cells = "".join(
            f'<td data-value="{of.get(name, "")}" style="{heat(of.get(name, math.nan))}">'
            f"{number('dice', of.get(name, math.nan))}</td>"
            for of in means
        )
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    metric = TITLES[data.parts[0].verdict.scores.metric]
    text = f"<p>Mean {metric}. Orange is low, blue is high. Click a head to sort.</p>"
    return text + _sortable(["Model", *(escape(part.title) for part in data.parts)], rows)


def _part(part: Part, name: str, families: Mapping[str, str]) -> str:
    verdict, scores = part.verdict, part.verdict.scores
    said = (
        f"<p>{counted(len(scores.cases), 'test case')}"
        + (f", {scores.dropped} left out for all models because one has no score there" if scores.dropped else "")
        + f". {_anchors(verdict)} Click a head to sort.</p>"
    )
    return said + _model_table(part, families) + _plots(part, name, families) + _ranks(verdict) + _pairs(verdict.pairs)


def _anchors(verdict: Verdict) -> str:
    if not verdict.ratings:
        return "No U-Score: times were not measured for two models or more."
    named = ", and beside it <b>".join(f"{escape(rating.anchors)}</b>" for rating in verdict.ratings)
    quantiles = f"quantiles ({', '.join(f'{low:g} to {high:g}' for low, high in QUANTILES)}"
    quantiles += "), " if len(verdict.ratings) == 1 else "; of the cohort alone), "
    return (
        f"U-Score with anchors <b>{named}; below each the band, and ranks, that other {quantiles}shares of accuracy "
        f"({', '.join(f'{a:g}' for a in ALPHAS)}) and doubled weights would give it."
    )


def _model_table(part: Part, families: Mapping[str, str]) -> str:
    verdict = part.verdict
    metric = verdict.scores.metric
    costs = [(key, head, unit) for key, head, unit in _COSTS if any(c.get(key) for c in part.costs.values())]
    head = ["Model", "Family", TITLES[metric], "95 % CI", "Rank, 95 %", "First"]
    head += [f"U-Score <small>{escape(rating.anchors.split(',')[0])}</small>" for rating in verdict.ratings]
    head += [TITLES[m] for m in part.others]
    head += [f"{escape(title.capitalize())} <small>{unit}</small>" for _, title, unit in costs]
    rows = []
    for i in verdict.order:
        model = verdict.scores.models[i]
        cells = [_value(part.others[m].get(model), 3, m) for m in part.others]
        cells += [_value(part.costs.get(model, {}).get(key), 4) for key, _, _ in costs]
        rows.append(
            _row(model, families, verdict.draws, i, [*(_u_cells(rating, model) for rating in verdict.ratings), *cells])
        )
    return _sortable(head, rows)


def _u_cells(rating: Rating, model: str) -> str:
    parts = rating.scores.get(model)
    if parts is None:
        return "<td data-value=''>n/a</td>"
    low, high = rating.bands[model]
    first, last = rating.ranks[model]
    return (
        f'<td data-value="{parts.score}"><b>{parts.score:.1f}</b><br>'
        f"<small>{low:.1f} to {high:.1f}, rank {first:.0f} to {last:.0f}</small></td>"
    )


def _row(model: str, families: Mapping[str, str], draws: Draws, i: int, cells: Sequence[str] = ()) -> str:
    low, high = _interval(draws, i)
    best, worst = draws.rank_interval(i)
    first, mean = draws.first_place()[i], draws.means[i]
    return (
        f"<tr><th scope=row>{escape(model)}</th><td class=word>{escape(families.get(model, ''))}</td>"
        f'<td data-value="{mean}" style="{heat(float(mean))}"><b>{mean:.3f}</b></td>'
        f'<td data-value="{low}">{low:.3f} to {high:.3f}</td><td data-value="{best}">{best:g} to {worst:g}</td>'
        f'<td data-value="{first}">{100 * first:.0f} %</td>{"".join(cells)}</tr>'
    )


def _interval(draws: Draws, model: int) -> tuple[float, float]:
    """Return the interval of a mean, within what scores can be: that of two runs alone would reach beyond."""
    low, high = draws.interval(model)
    return max(low, 0.0), min(high, 1.0)


def _plots(part: Part, name: str, families: Mapping[str, str]) -> str:
    verdict = part.verdict
    drawn = {}
    for key, title, unit in _COSTS:
        points = []
        for i, model in enumerate(verdict.scores.models):
            if cost := part.costs.get(model, {}).get(key):
                low, high = _interval(verdict.draws, i)
                mean = float(verdict.draws.means[i])
                points.append(Point(model, families.get(model, ""), mean, low, high, cost))
        if len(points) > 1:
            drawn[title] = pareto_plot(points, f"{title}, {unit}", unit, TITLES[verdict.scores.metric])
    if not drawn:
        return ""
    present = [families.get(model, "") for model in verdict.scores.models]
    return (
        "<h3>Accuracy against cost</h3><p>Named are the models than which none is both better and cheaper. Point at a "
        f"mark for its numbers, click it to keep its name.</p>{plots(drawn, name)}{legend(family_colours(present))}"
    )


def _ranks(verdict: Verdict) -> str:
    found = verdict.comparison
    if found is None or len(found.ranks) < 3:
        return ""
    few = "" if found.can_differ() else (
        " So few cases could not show any difference between so many models, whatever the scores."
    )  # fmt: skip
    return (
        "<h3>Mean ranks over cases</h3><p>Bars join models that cannot be told apart (Wilcoxon's signed-rank test of "
        f"every pair, Holm's correction, level {found.level:g}, or the interval over cases and training runs holds 0; "
        f"Friedman's test of all: p = {found.friedman:.2g}).{few}"
        f"</p><div class=cd>{rank_diagram(verdict.scores.models, list(found.ranks), found.cliques)}</div>"
    )


def _pairs(told: Sequence[Pair]) -> str:
    if not told:
        return ""
    rows = [
        f"<tr><th scope=row>{escape(p.first)}</th><td>{escape(p.second)}</td>"
        f'<td data-value="{p.difference}">{p.difference:+.4f}</td>'
        f'<td data-value="{p.low}">{p.low:+.4f} to {p.high:+.4f}</td>'
        f'<td data-value="{int(p.separable)}">{"yes" if p.separable else "not separable"}</td>'
        f'<td data-value="{p.p}">{p.p:.2g}</td><td data-value="{p.false_win}">{100 * p.false_win:.1f} %</td>'
        f'<td data-value="{p.cases_needed}">{_cases(p.cases_needed)}</td></tr>'
        for p in told[:_MOST_PAIRS]
    ]
    head = ["Model", "beside", "Difference", "95 % CI", "Separable", "p, Holm", "False win", "Cases needed"]
    more = f"; the {_MOST_PAIRS} of the best models out of {len(told)}" if len(told) > _MOST_PAIRS else ""
    return (
        f"<details><summary>Every pair{more}</summary><p>False win: the chance that the first is not the better one "
        "(arXiv:2505.04720). Cases needed: to show the difference in 8 of 10 studies.</p>"
        f"{_sortable(head, rows)}</details>"
    )


def _cases(needed: float) -> str:
    return "∞" if math.isinf(needed) else f"{needed:.0f}" if needed < 1e5 else "over 100 000"


def _value(value: float | None, digits: int, metric: str = "") -> str:
    if value is None or not math.isfinite(value):
        return '<td data-value="">n/a</td>'
    return f'<td data-value="{value}">{number(metric, value) if metric else f"{value:.{digits}g}"}</td>'


def _sortable(head: Sequence[str], rows: Sequence[str]) -> str:
    return table(head, rows, "numbers sortable")
