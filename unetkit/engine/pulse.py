"""When the processes of a training look up from their steps to decide something together: to stop, to save.

Each process knows the time and hears Ctrl-C by itself, at moments of its own; a step that some of them take and others
do not would never end. So they ask each other, every second or so, and go by the same answer.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from unetkit.engine.distributed import Group

_SECONDS = 1.0
_MOST_STEPS = 20


@dataclass(frozen=True)
class Decision:
    """What all processes do after a step: end the training, for a reason, and save.

    `over` is the share of the training that is over, by the clock that they go by; None leaves it as it was.
    """

    stopped: str = ""
    save: bool = False
    over: float | None = None


class Pulse:
    """Makes one decision of what the processes of a group want; a process alone decides after each step."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.agreed = group.world == 1
        """Whether Ctrl-C, if it comes now, is known to all processes."""
        self._asked = False
        self._before: Any = None
        self._steps = 0
        self._due = 1
        self._since = time.monotonic()

    def decide(self, wanted: Decision, closing: bool) -> Decision:
        """Return what all do after this step; what the first process wants counts, at the next beat at the latest.

        `closing`: an epoch ends, which needs a decision at once. Raises KeyboardInterrupt on all processes after
        Ctrl-C on one of them.
        """
        if self.group.world == 1:
            return wanted
        self._steps += 1
        if self._steps < self._due and not closing:
            return Decision()
        spent = (time.monotonic() - self._since) / self._steps
        answers = self.group.gather((self._asked, wanted, spent))
        # of the slowest process, so that all count the same steps to the next beat
        slowest = max(seconds for _, _, seconds in answers)
        self._due = min(max(int(_SECONDS / max(slowest, 1e-6)), 1), _MOST_STEPS)
        self._steps, self._since = 0, time.monotonic()
        if any(asked for asked, _, _ in answers):
            self.agreed = True
            raise KeyboardInterrupt
        return answers[0][1]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep Ctrl-C within the block for the next decision, where there are several processes."""
        if self.group.world == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self._asked = True

        self._before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Let Ctrl-C end the block at once on each process that it reaches; what they have is to be saved before."""
        if self._before is None:
            yield
            return
        own = signal.signal(signal.SIGINT, self._before)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, own)
