"""Progress bars for people; nothing where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]


def bar(title: str) -> Progress:
    """Return a callback `(done, total)` that draws rate and time left on a terminal's stderr."""
    shown = None

    def update(done: int, total: int) -> None:
        nonlocal shown
        if not sys.stderr.isatty():
            return
        if shown is None:
            from tqdm import tqdm

            shown = tqdm(total=total, desc=title, unit="case", dynamic_ncols=True, leave=False)
        shown.update(done - shown.n)
        if done >= total:
            shown.close()

    return update
