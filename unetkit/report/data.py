"""What a report is made of: plain names, numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unetkit.metrics import Scores
from unetkit.report.picture import Picture

ROLES = ("best", "median", "worst")
"""For what a case is shown."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A case that is worth looking at: its id, its mean Dice, and a slice of it."""

    case: str
    dice: float
    picture: Picture


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that one report says.

    `rows` are scores by case, class and metric, `summary` is `metrics.aggregate` of them, `definitions` says what
    each metric means, `failures` names cases that could not be scored and why. `pictures` go by their role, one of
    ROLES. `history` holds the records of `log.jsonl`. `recipe` is (key, value, origin) for every key,
    `reasons` explains the plan. `fingerprint` is what was measured of the training data, as fingerprint.json has it.
    `facts` are further lines for the head, in order. `phantom`: the images are generated.
    """

    title: str
    model: str
    dataset: str
    classes: Sequence[str]
    rows: Mapping[str, Scores]
    summary: Mapping[str, Any]
    definitions: Mapping[str, str]
    failures: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Shown] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    recipe: Sequence[tuple[str, str, str]] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    phantom: bool = False
