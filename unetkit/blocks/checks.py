"""Refusals of options that several networks share, each in one line."""

from collections.abc import Sequence
from typing import Any

from unetkit.errors import ModelError


def check_levels(**options: Sequence[Any]) -> None:
    """Raise ModelError unless all options, given by name, have as many entries, 2 at least."""
    counts = {len(values) for values in options.values()}
    if len(counts) > 1 or min(counts) < 2:
        *first, last = [f"{name} {tuple(values)}" for name, values in options.items()]
        named = f"{', '.join(first)} and {last}" if first else last
        raise ModelError(f"{named} need one entry per level, 2 at least")


def check_heads(widths: Sequence[int], heads: Sequence[int]) -> None:
    """Raise ModelError unless the channels of each level divide into its heads."""
    for level, (width, count) in enumerate(zip(widths, heads, strict=True)):
        if count < 1 or width % count:
            raise ModelError(f"{width} channels at level {level} do not divide into {count} heads")


def check_even(widths: Sequence[int]) -> None:
    """Raise ModelError for odd widths, which a decoder cannot halve."""
    if any(width % 2 for width in widths):
        raise ModelError(f"widths {tuple(widths)} must be even: the decoder halves them")


def check_rate(drop_path: float) -> None:
    """Raise ModelError for a drop path rate that is no probability, or drops everything."""
    if not 0 <= drop_path < 1:
        raise ModelError(f"drop_path {drop_path} is a probability, 0 or more and below 1")
