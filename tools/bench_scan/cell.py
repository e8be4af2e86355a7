"""One row beside ours at one length, in a process of its own that can be ended when it takes too long or too much."""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timing import Case, Result, both, measure, status

BUSY = 10
"""How much longer than the limit a process may take on a machine that has other work."""
TURNS = 0.8
"""Share of the limit after which no further turn begins."""


def run(operator: str, length: int, row: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """Return `ours`, `row` (each a Result as a dict) and `bytes` of forward and of both; or why there is none."""
    words = [operator, "--cell", row, "--lengths", str(length), "--device", options.device, "--limit", options.limit]
    words += ["--repeats", options.repeats, "--threads", options.threads, "--memory", options.memory]
    words += ["--peers", options.peers] if options.peers else []
    command = [sys.executable, str(Path(__file__).parent), *map(str, words)]
    # unbuffered, so that reading the first line leaves the rest to `communicate`
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # imports are over, and on a GPU kernels compiled
        try:
            # seconds of the process are what counts on a CPU, see `_bound`: a busy machine gives fewer of them
            out, err = process.communicate(timeout=(1 if options.device == "cuda" else BUSY) * options.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"> {options.limit:.0f} s"
    if process.returncode == -signal.SIGXCPU:
        return f"> {options.limit:.0f} s"
    if process.returncode:
        lines = err.decode().strip().splitlines() or [f"ended by signal {-process.returncode}"]
        return f"failed: {lines[-1][:200]}"
    answer = json.loads(out.strip().splitlines()[-1])
    return answer.get("skipped", answer)


def child(case: Case, options: argparse.Namespace) -> None:
    """Measure the row that was named and print it as JSON."""
    row = next(row for row in case.rows if row.name == options.cell)
    try:
        scans = [case.rows[0].load()] + ([row.load()] if row is not case.rows[0] else [])
        if options.device == "cuda":
            both(scans[-1], case.inputs)
    except Exception as err:  # a peer that is missing is a result, not a crash
        print(f"begin\n{json.dumps({'skipped': f'{type(err).__name__}: {err}'})}")
        return
    print("begin", flush=True)
    if options.device == "cpu":
        _bound(options.limit * max(torch.get_num_threads(), 1), options.memory)
    try:
        results = measure(case.inputs, scans, options.repeats, TURNS * options.limit)
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


def _bound(seconds: float, gib: float) -> None:
    """Let the system end this process after so many seconds more of all its threads, and refuse it more memory."""
    end = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))
    most = status("VmData") + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def result(found: dict[str, Any]) -> Result:
    """What a process printed of a row."""
    return Result(**found)
