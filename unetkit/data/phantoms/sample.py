"""One generated case before it is a set of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """Images, labels and what is known of how they were made.

    `images` [C, *S] uint8 (pictures) or int16 (volumes); `label` [*S] uint8; `spacing` in mm per axis of a
    volume (then S is right, front, up) or None for a picture (then S is H, W); `roi` [*S] bool, outside of which
    nothing counts; `extras` are further maps by folder name; `facts` go into the manifest beside the case.
    """

    images: np.ndarray
    label: np.ndarray
    spacing: tuple[float, ...] | None = None
    roi: np.ndarray | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Generator:
    """A family of cases: draws one `Sample` from a random generator of its own.

    `labels` maps the values of the label files to their meaning, 0 included; `channels` names the images;
    `example` is a volume [*S] with its affine that has no label (to try prediction on), or None.
    """

    draw: Callable[[np.random.Generator], Sample]
    labels: dict[int, str]
    channels: tuple[str, ...]
    description: str
    example: tuple[np.ndarray, np.ndarray] | None = None
