"""Which run of a study may start, which cannot any more, and what became of each; study.json says it at any moment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from unetkit.data.formats.files import replacing
from unetkit.engine.result import VALIDATION
from unetkit.engine.study.folder import FAILED, FINISHED, RUNNING, State, StudyFolder, outcome
from unetkit.engine.study.nodes import OUT_OF_FOLD, STAGE, Node


class Schedule:
    """Takes the runs that are left in their order, each when all that it requires are finished."""

    def __init__(self, folder: StudyFolder, pending: Sequence[Node], shown: bool) -> None:
        self.folder, self.shown = folder, shown
        self.waiting = list(pending)
        for node in pending:
            folder.states[node.name] = State()

    def next(self) -> Node | None:
        """Return the next run that can start, no longer waiting then; None if there is none now."""
        for node in list(self.waiting):
            lost = [name for name in node.requires if self.folder.states[name].state == FAILED]
            if lost:
                self.waiting.remove(node)
                self.fail(node, f"needs {lost[0]}, which failed")
            elif all(self.folder.states[name].state == FINISHED for name in node.requires):
                self.waiting.remove(node)
                return node
        return None

    def start(self, node: Node, where: str = "") -> None:
        """Note that a run starts, and lay out the label maps it needs. Raises DataError if the disk is full."""
        if node.requires:
            gather_label_maps(self.folder)
        self.folder.mark(node, State(RUNNING))
        number = self.folder.nodes.index(node) + 1
        self.say(f"{node.name}: run {number} of {len(self.folder.nodes)}{where}")

    def finish(self, node: Node) -> None:
        """Note that a run is finished."""
        state = outcome(self.folder, node)
        self.folder.mark(node, state)
        dice = "no score" if state.dice is None else f"Dice {state.dice:.4f}"
        self.say(f"{node.name}: finished, {dice}, {state.seconds or 0:.0f} s")

    def fail(self, node: Node, reason: str) -> None:
        """Note why a run failed; the others go on."""
        self.folder.mark(node, State(FAILED, reason))
        self.say(f"{node.name}: failed: {reason}")

    def pause(self, node: Node) -> None:
        """Note that a run was stopped, to be gone on with."""
        self.folder.mark(node, State())

    def say(self, line: str) -> None:
        """Print a line."""
        if self.shown:
            print(line, file=sys.stderr)


def gather_label_maps(folder: StudyFolder) -> None:
    """Lay the stage's label maps of unseen cases side by side, whichever fold made them, without copying.

    Raises DataError if they cannot be written.
    """
    target = folder.path / OUT_OF_FOLD
    for node in folder.nodes:
        if node.configuration != STAGE:
            continue
        for file in sorted((folder.of(node) / VALIDATION).glob("[!.]*")):
            _link(file, target / file.name)


def _link(file: Path, target: Path) -> None:
    if target.exists() and target.samefile(file):
        return
    with replacing(target) as temporary:
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, temporary)
