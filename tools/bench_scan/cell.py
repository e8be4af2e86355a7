"""One row beside ours at one length, in a process of its own that can be ended when it takes too long or too much."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timing import Case, Result, measure

STARTING = 60
"""Seconds that a process may take before it measures: imports, and kernels to compile on a GPU."""


def run(operator: str, length: int, row: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """Return `ours`, `row` (each a Result as a dict) and `bytes` of forward and of both; or why there is none."""
    words = [operator, "--cell", row, "--lengths", str(length), "--device", options.device, "--limit", options.limit]
    words += ["--repeats", options.repeats, "--threads", options.threads, "--memory", options.memory]
    words += ["--peers", options.peers] if options.peers else []
    command = [sys.executable, str(Path(__file__).parent), *map(str, words)]
    try:
        # the turns end by themselves within the limit; what does not end is a first run that is longer
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit + STARTING)
    except subprocess.TimeoutExpired:
        return f"> {options.limit:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        return f"failed: {lines[-1][:200]}"
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer.get("skipped", answer)


def child(case: Case, options: argparse.Namespace) -> None:
    """Measure the row that was named and print it as JSON."""
    if options.device == "cpu":
        most = int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    row = next(row for row in case.rows if row.name == options.cell)
    try:
        scans = [case.rows[0].load()] + ([row.load()] if row is not case.rows[0] else [])
    except Exception as err:  # a peer that is missing is a result, not a crash
        print(json.dumps({"skipped": f"{type(err).__name__}: {err}"}))
        return
    try:
        results = measure(case.inputs, scans, options.repeats, options.limit)
    except (RuntimeError, MemoryError) as err:
        if "memory" not in str(err):
            raise
        room = f"{options.memory:g} GiB" if options.device == "cpu" else "the GPU"
        print(json.dumps({"skipped": f"needs more memory than {room}"}))
        return
    read = sum(t.numel() * t.element_size() for t in case.inputs)
    with torch.no_grad():
        out = scans[0](*case.inputs)
    written = out.numel() * out.element_size()
    # inputs and output once; backward: the inputs, what comes for the output, and a gradient of each input
    moved = [read + written, 3 * read + 2 * written]
    print(json.dumps({"ours": asdict(results[0]), "row": asdict(results[-1]), "bytes": moved}))


def result(found: dict[str, Any]) -> Result:
    """What a process printed of a row."""
    return Result(**found)
