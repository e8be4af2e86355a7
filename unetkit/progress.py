"""How far a loop over cases has come: the callback that such loops call, and the bar that people see."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Called with (cases done, of all) after each case."""


def case_bar(title: str, shown: bool = True) -> Progress:
    """Return a callback that draws rate and time left where stderr is a terminal, and else does nothing."""
    bar: tqdm[None] | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if not (shown and sys.stderr.isatty()):
            return
        if bar is None:
            # Only now, after the first case: an error before it must not share its line with an empty bar. That case
            # took no time on the bar's clock, so it is `initial`, which the rate does not count.
            bar = tqdm(total=total, initial=done, desc=title, unit="case", dynamic_ncols=True, leave=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
