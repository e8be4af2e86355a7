"""Which postprocessing a study's label maps need, decided on its cross-validation alone.

Each case is looked at once: components are counted with their overlap with the truth, and every candidate's Dice
follows from those numbers, without a label map being changed. Keeping the largest component is nnU-Net's candidate
(doi:10.1038/s41592-020-01008-z); small components beside the smallest organ, and sides, are those of arXiv:2208.10791.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from unetkit.evaluation.components import CaseParts, ClassParts, take_apart
from unetkit.infer.postprocess import postprocess
from unetkit.recipe.schema import PostprocessRule
from unetkit.types import Labels, Volume

RATES = (0.1, 0.25, 0.75)
"""Components are dropped below these shares of the smallest object of their class in the truth (arXiv:2208.10791)."""
_LEAST_GAIN = 1e-4
"""Dice that a rule must add; less is rounding."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """A case of the cross-validation: label map and truth, encoded [L, *S], and the grid they lie on."""

    id: str
    predicted: np.ndarray
    truth: np.ndarray
    grid: Volume


@dataclass(frozen=True)
class RuleChoice:
    """The rules in their order, mean foreground Dice without and with them, and a sentence for each decision.

    In this Dice a class that is absent from both counts 1: postprocessing is there to take away what should not be.
    """

    rules: tuple[PostprocessRule, ...]
    before: float
    after: float
    reasons: tuple[str, ...]


def choose_rules(
    cases: Callable[[], Iterable[Mapped]], labels: Labels, pairs: Sequence[tuple[str, str]] = ()
) -> RuleChoice:
    """Choose rules that raise the Dice of label maps that were not trained on; `cases` is called for each pass.

    `pairs` names left and right classes whose components may change sides. In order: sides; the largest component of
    all foreground, if no class loses by it; class by class the best of the largest component and small components;
    holes. What is chosen is applied in a last pass, and dropped if the Dice does not rise by it in truth.
    """
    first: list[PostprocessRule] = []
    reasons: list[str] = []
    if pairs:
        first, reasons = _sides(cases, labels, pairs)
    parts = [take_apart(c.id, _after(c, first, labels), c.truth, labels, prod(c.grid.spacing)) for c in cases()]
    found, why = _components(parts, labels)
    rules, reasons = [*first, *found], [*reasons, *why]
    before, after = _verified(cases, rules, labels)
    if rules and after < before + _LEAST_GAIN:
        return RuleChoice((), before, before, (*reasons, f"together they give {after:.4f} for {before:.4f}: none"))
    return RuleChoice(tuple(rules), before, after, tuple(reasons))


def _after(case: Mapped, rules: Sequence[PostprocessRule], labels: Labels) -> np.ndarray:
    return postprocess(case.predicted, rules, labels, case.grid)


def _verified(
    cases: Callable[[], Iterable[Mapped]], rules: Sequence[PostprocessRule], labels: Labels
) -> tuple[float, float]:
    """Return the mean Dice without and with rules, from label maps and not from counts."""
    before, after = [], []
    for case in cases():
        before.append(np.mean(dice_by_class(case.predicted, case.truth, labels)))
        after.append(np.mean(dice_by_class(_after(case, rules, labels), case.truth, labels)) if rules else before[-1])
    return float(np.mean(before)), float(np.mean(after))


def dice_by_class(predicted: np.ndarray, truth: np.ndarray, labels: Labels) -> np.ndarray:
    """Return the Dice of each class of encoded labels [L, *S] where the truth is known, 1 for one absent from both."""
    parts = take_apart("", predicted, truth, labels, 1.0, counts_only=True)
    return _scores(parts)


def _sides(
    cases: Callable[[], Iterable[Mapped]], labels: Labels, pairs: Sequence[tuple[str, str]]
) -> tuple[list[PostprocessRule], list[str]]:
    """Ask for each pair of classes whether changing sides helps the two."""
    rules = [PostprocessRule(rule="swap_sides", classes=list(pair)) for pair in pairs]
    gains: list[list[float]] = [[] for _ in rules]
    for case in cases():
        if case.grid.affine is None:
            return [], ["sides: the files do not say where left is, so nothing can change sides"]
        plain = dice_by_class(case.predicted, case.truth, labels)
        for rule, gain in zip(rules, gains, strict=True):
            own = [labels.classes.index(name) for name in rule.classes or ()]
            changed = dice_by_class(_after(case, [rule], labels), case.truth, labels)
            gain.append(float(np.mean(changed[own] - plain[own])))
    chosen, reasons = [], []
    for rule, gain in zip(rules, gains, strict=True):
        helps = _helps(np.array(gain))
        chosen += [rule] if helps else []
        verdict = "taken" if helps else "left"
        reasons.append(f"sides of {' and '.join(rule.classes or ())}: {np.mean(gain):+.4f} Dice, {verdict}")
    return chosen, reasons


def _helps(gain: np.ndarray) -> bool:
    """Whether a gain per case is one: in the mean, and in no fewer cases than it is a loss."""
    # one case with a large gain must not outweigh many that lose
    return bool(gain.mean() >= _LEAST_GAIN and (gain > 0).sum() >= (gain < 0).sum())


def _components(parts: Sequence[CaseParts], labels: Labels) -> tuple[list[PostprocessRule], list[str]]:
    rules: list[PostprocessRule] = []
    reasons: list[str] = []
    if len(labels.classes) > 1:
        gain = np.array([_scores(case.of_largest_object()) - _scores(case) for case in parts])
        if _helps(gain.mean(axis=1)) and gain.mean(axis=0).min() >= 0:
            rules.append(PostprocessRule(rule="keep_largest", together=True))
            parts = [case.of_largest_object() for case in parts]
        verdict = "taken" if rules else "left, as it must help and no class may lose"
        reasons.append(f"largest object of all classes together: {gain.mean():+.4f} Dice, {verdict}")
    for number, name in enumerate(labels.classes):
        rule, why = _of_class([case.classes[number] for case in parts], name)
        rules += [rule] if rule else []
        reasons.append(why)
    for number, name in enumerate(labels.classes):
        gain = np.array([c.classes[number].filled() - c.classes[number].dice() for c in parts])
        if _helps(gain):
            rules.append(PostprocessRule(rule="fill_holes", classes=[name]))
            reasons.append(f"holes of {name}: {gain.mean():+.4f} Dice, filled")
    return rules, reasons


def _scores(case: CaseParts) -> np.ndarray:
    return np.array([c.dice() for c in case.classes])


def _of_class(cases: Sequence[ClassParts], name: str) -> tuple[PostprocessRule | None, str]:
    """Return the best rule for the components of one class, if any helps, and why."""
    plain = np.array([case.dice() for case in cases])
    tries: list[tuple[float, PostprocessRule]] = []
    largest = np.array([case.dice(case.largest()) for case in cases]) - plain
    if _helps(largest):
        tries.append((float(largest.mean()), PostprocessRule(rule="keep_largest", classes=[name])))
    objects = [case.truth_mm3 for case in cases if case.truth_mm3 > 0]
    for rate in RATES if objects else ():
        least = rate * min(objects)
        gain = np.array([case.dice(case.at_least(least)) for case in cases]) - plain
        if _helps(gain):
            rule = PostprocessRule(rule="drop_small", classes=[name], smallest=round(least, 3))
            tries.append((float(gain.mean()), rule))
    if not tries:
        return None, f"components of {name}: neither the largest alone nor dropping small ones helps"
    # of equal gains the first, which is the simpler
    gain, rule = max(tries, key=lambda one: one[0])
    size = f" below {rule.smallest:g} mm3" if rule.smallest else ""
    return rule, f"components of {name}: {rule.rule}{size} gives {gain:+.4f} Dice"
