"""What an advice rests on and how far it carries, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

import numpy as np

from unetkit.bench.advise import Advice
from unetkit.bench.evidence import Evidence
from unetkit.bench.forecast import FEWEST
from unetkit.errors import counted

_SAME = 0.05
"""Steps below which two data sets are taken for one and the same."""


def method_lines(advice: Advice) -> list[str]:
    """Return how the ranking came about, whether traits decide in it, and which models are level."""
    lines = [_rule(advice), *_level(advice)]
    if advice.draws is not None:
        lines.append(
            "expected: the measured difference, drawn towards 0 by as much as chance alone would spread such means; "
            "the interval is that of a single further data set, with the seeds and test cases of one like these"
        )
    if len(advice.gains) > 1:
        spread, noise = advice.spread()
        lines.append(
            f"spread: a model's place above or below the others varies by {spread:.3f} {advice.basis.metric} (standard "
            f"deviation) between data sets; seeds and test cases alone would make it {noise:.3f}"
        )
    return lines


def caveat_lines(advice: Advice, evidence: Sequence[Evidence]) -> list[str]:
    """Return what a reader must know before trusting the ranking."""
    lines = []
    nearest = int(np.argmin(advice.distances))
    if advice.distances[nearest] < _SAME:
        name = advice.basis.datasets[nearest].name
        lines.append(f"your data look like {name} itself, whose scores are part of the evidence")
    runs = [(~np.isnan(standing.runs)).sum(axis=1).min() for standing in advice.basis.standings(advice.models)]
    if single := [known.name for known, least in zip(advice.basis.datasets, runs, strict=True) if least < 2]:
        lines.append(
            f"some networks were trained only once on {', '.join(single)}; how far seeds matter is not known there"
        )
    if without := advice.basis.without:
        lines.append(f"not used: {', '.join(without)}, without {advice.basis.metric} of {advice.basis.start} starts")
    for model, missing in advice.basis.partial.items():
        lines.append(f"not compared: {model} has no scores on {', '.join(missing)}")
    lines += [f"not advised: {model}: {reason}" for model, reason in advice.refused.items()]
    used = {known.name for known in advice.basis.datasets}
    return lines + [line for one in evidence if used & {d.name for d in one.datasets} for line in _of_source(one)]


def _of_source(one: Evidence) -> list[str]:
    budget, seeds = one.about["budget"], one.about["seeds"]
    spent = " or ".join(f"{budget[key]} {key}" for key in ("steps", "minutes", "epochs") if key in budget)
    lines = [
        f"{one.name}: every network trained for {spent}, {counted(len(seeds), 'seed')}, on "
        f"{', '.join(one.about['devices'])}; longer training may rank them otherwise"
    ]
    if one.about["left_out"]:
        lines.append(f"{one.name}: no results, or none on the same cases, of {', '.join(one.about['left_out'])}")
    if one.about["protocol"] == "ubench":
        lines.append(f"{one.name}: checkpoints were chosen on the very cases that were scored, which flatters them all")
    return lines


def _rule(advice: Advice) -> str:
    count, trial = len(advice.gains), advice.trial
    sets = counted(count, "data set")
    if len(advice.models) < 2:
        return "a single model: there is nothing to compare it with"
    if count < FEWEST:
        return (
            f"{sets}: too few to tell what to expect on another one; ranked by what was measured, with the error that "
            f"seeds and test cases make; intervals take {FEWEST}"
        )
    if trial is None:
        return f"{sets}: too few to tell whether traits help; ranked by the plain average"
    plain, traits = trial.plain.mean(), trial.traits.mean()
    tried = (
        f"leaving out each of {sets} in turn, ranks by traits agreed with those found to Kendall's tau "
        f"{trial.tau_traits.mean():.2f}, ranks by plain average to {trial.tau_plain.mean():.2f} (p = {trial.p:.2g}); "
        f"their first choices lost {traits:.4f} and {plain:.4f} {advice.basis.metric} to the best model there"
    )
    if not trial.helps:
        least = "" if trial.can_help else f"; with {sets} p cannot fall below {0.5**count:.2g}"
        return f"traits have not been shown to help, so ranked by the plain average: {tried}{least}"
    if isinf(advice.bandwidth):
        return f"traits helped, yet over all data sets the plain average foretells best, and ranks: {tried}"
    return f"traits help, so data sets weigh by likeness (bandwidth {advice.bandwidth:g} steps): {tried}"


def _level(advice: Advice) -> list[str]:
    if advice.draws is None or len(advice.models) < 2:
        return []
    first, alike = advice.models[advice.order[0]], advice.alike()
    if len(alike) == len(advice.models) - 1:
        return [f"none of the others can be told from {first} on this evidence"]
    return [f"not told from {first}: {', '.join(alike) or 'none'}; the others are expected to be behind"]
