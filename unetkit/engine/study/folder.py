"""The folder of a study: `runs/STUDY/` with study.json, the runs below, and what all of them together came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unetkit.data.formats.files import make_folder, replacing
from unetkit.engine.log import read_log
from unetkit.engine.run_folder import STUDY, RunFolder
from unetkit.engine.study.nodes import OUT_OF_FOLD, Node
from unetkit.errors import CheckpointError, DataError

FORMAT = 1
"""Version of study.json."""
WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"


@dataclass
class State:
    """Where a run stands; `reason` says why it failed, `dice` and `seconds` are there once it is finished."""

    state: str = WAITING
    reason: str = ""
    dice: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class StudyFolder:
    """Reads and writes study.json, and knows where the runs lie; `about` holds what was decided for all of them."""

    path: Path
    nodes: tuple[Node, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)

    def of(self, node: Node) -> Path:
        """Return a run's folder."""
        return self.path / node.name

    def configurations(self) -> dict[str, list[Node]]:
        """Return the runs by configuration, both in order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(node.configuration, []).append(node)
        return found

    def finished(self, node: Node) -> bool:
        """Whether a run has its scores and its report, the last that is written."""
        return all((self.of(node) / name).is_file() for name in ("metrics.json", "report.html"))

    def mark(self, node: Node, state: State) -> None:
        """Note where a run stands, and write study.json. Raises DataError if it cannot be written."""
        self.states[node.name] = state
        self.write()

    def write(self) -> None:
        """Write study.json as a whole. Raises DataError if it cannot be written."""
        rows = [
            {
                "name": node.name,
                "configuration": node.configuration,
                "fold": node.fold,
                "folder": node.name,
                "requires": list(node.requires),
                "previous": OUT_OF_FOLD if node.requires else None,
                **asdict(self.states.get(node.name, State())),
            }
            for node in self.nodes
        ]
        tree = {"format": FORMAT, **self.about, "nodes": rows}
        with replacing(self.path / STUDY) as temporary:
            temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def read_study(path: Path) -> StudyFolder:
    """Return a study as study.json and the runs' folders tell it; none is running.

    Raises CheckpointError if the folder is no study or damaged.
    """
    try:
        tree = json.loads((path / STUDY).read_text(encoding="utf-8"))
        rows = tree.pop("nodes")
        nodes = tuple(Node(row["configuration"], row["fold"], tuple(row["requires"])) for row in rows)
        told = {row["name"]: State(row["state"], row["reason"], row["dice"], row["seconds"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: a damaged study ({text}); restore its {STUDY}, or train anew") from error
    if tree.pop("format", FORMAT) > FORMAT:
        raise CheckpointError(f"{path}: a study of a later unetkit; update this one")
    folder = StudyFolder(path, nodes, tree, told)
    for node in nodes:
        # whatever the file says: a killed process could not tell it any more
        if folder.finished(node):
            told[node.name] = outcome(folder, node)
        elif told[node.name].state != FAILED:
            told[node.name] = State()
    return folder


def outcome(folder: StudyFolder, node: Node) -> State:
    """Return the state of a finished run, with its Dice and the seconds that it trained, from its own files."""
    dice, seconds = None, None
    with suppress(OSError, ValueError, KeyError):
        dice = json.loads((folder.of(node) / "metrics.json").read_text(encoding="utf-8"))["dice"]
    for record in read_log(folder.of(node) / "log.jsonl"):
        seconds = record.get("seconds", seconds)
    return State(FINISHED, "", dice, seconds)


def holds_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / STUDY).is_file()


def make_run(folder: StudyFolder, node: Node) -> RunFolder:
    """Return a run's folder, made if it is not there. Raises DataError if it cannot be made."""
    try:
        make_folder(folder.of(node))
    except OSError as error:
        raise DataError(f"{folder.of(node)}: cannot be made ({error.strerror}); free some space") from error
    return RunFolder(folder.of(node))
