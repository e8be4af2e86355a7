"""Ctrl-C between steps, never inside one: a half-made update must not be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done, then let it arrive, by KeyboardInterrupt as a rule.

    Outside the main thread, where Python handles no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    # a flag, not an exception: torch in the middle of an update cannot be unwound
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:  # to the handler that was there before, which as a rule raises KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)
