"""The table of one operator and length, printed row by row."""

from __future__ import annotations

from typing import Any

from cell import result
from timing import Result

MIB = 2**20
HEAD = [
    "row",
    "forward ms",
    "times ours",
    "fwd+bwd ms",
    "times ours",
    "MiB forward",
    "MiB fwd+bwd",
    "distance",
    "turns",
]
MOVED = ["GB/s forward", "of copy", "GB/s fwd+bwd", "of copy"]


def head(title: str, length: int, bandwidth: float | None) -> None:
    """Print what stands above the rows."""
    names = HEAD + (MOVED if bandwidth else [])
    print(f"\n{title}, {length} tokens\n\n| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)


def line(name: str, found: dict[str, Any] | str, bandwidth: float | None) -> None:
    """Print a row, or why it has no numbers. Times ours: of ours in the same process, in turns with the row."""
    if isinstance(found, str):
        cells = [name, found] + [""] * (len(HEAD) - 2 + (len(MOVED) if bandwidth else 0))
    else:
        ours, own = result(found["ours"]), result(found["row"])
        cells = [name, *_numbers(ours, own)]
        for moved, seconds in zip(found["bytes"], (own.forward, own.both), strict=True):
            if bandwidth:
                cells += [f"{moved / seconds / 1e9:.0f}", f"{100 * moved / seconds / bandwidth:.0f} %"]
    print(f"| {' | '.join(cells)} |", flush=True)


def _numbers(ours: Result, own: Result) -> list[str]:
    return [
        f"{1e3 * own.forward:.4g}",
        f"{own.forward / ours.forward:.2f}",
        f"{1e3 * own.both:.4g}",
        f"{own.both / ours.both:.2f}",
        *(f"{m / MIB:.0f}" for m in own.memory),
        f"{own.distance:.0e}",
        str(own.turns),
    ]
