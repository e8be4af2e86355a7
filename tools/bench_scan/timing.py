"""Times rows in turns, forward and forward with backward, with peak memory; prints a table."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

Scan = Callable[..., Tensor]


@dataclass
class Row:
    """One implementation: `load` gives it, or raises what says why it is not there; `longest` input it is run at."""

    name: str
    load: Callable[[], Scan]
    longest: int = 1 << 62


@dataclass
class Case:
    """Inputs of one length, all differentiated; rows, ratios being to the first; bytes a forward pass must move."""

    title: str
    length: int
    inputs: list[Tensor]
    rows: list[Row]
    traffic: int


@dataclass
class Result:
    """Smallest times in seconds, largest memory in bytes beside the inputs, and the distance to the first row."""

    forward: float = float("inf")
    both: float = float("inf")
    cpu: float = float("inf")
    memory: list[int] = field(default_factory=lambda: [0, 0])
    distance: float = 0.0


class _Peak:
    """Peak memory within the block, beside what was there before: of the GPU, or of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> _Peak:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            # memory that was freed but is still held would hide what is taken anew
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        cuda = self.device.type == "cuda"
        self.bytes = (torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")) - self.before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 0


def measure(case: Case, repeats: int) -> tuple[dict[str, Result], dict[str, str]]:
    """Return the result of each row that runs at this length, and why the others do not."""
    ready: dict[str, Scan] = {}
    skipped: dict[str, str] = {}
    for row in case.rows:
        if case.length > row.longest:
            skipped[row.name] = f"not run beyond {row.longest} tokens"
            continue
        try:
            ready[row.name] = row.load()
        except Exception as err:  # a peer that is missing is a result, not a crash
            skipped[row.name] = f"{type(err).__name__}: {err}"
    results = {name: Result() for name in ready}
    weights = torch.randn(ready[case.rows[0].name](*case.inputs).shape, device=case.inputs[0].device)
    truth = None
    for name, scan in ready.items():
        out = _remember(scan, case.inputs, weights, results[name])
        truth = out if truth is None else truth
        results[name].distance = max(_distance(a, b) for a, b in zip(out, truth, strict=True))
    for turn in range(repeats):
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _time(ready[name], case.inputs, weights, results[name])
    return results, skipped


def _both(scan: Scan, inputs: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    y = scan(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, weights.to(y.dtype))]


def _remember(scan: Scan, inputs: Sequence[Tensor], weights: Tensor, result: Result) -> list[Tensor]:
    """Run once for the memory and the results."""
    with _Peak(weights.device) as peak, torch.no_grad():
        scan(*inputs)
    result.memory[0] = peak.bytes
    with _Peak(weights.device) as peak:
        out = _both(scan, inputs, weights)
    result.memory[1] = peak.bytes
    return out


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / (b.abs().max() + 1e-30))


def _time(scan: Scan, inputs: Sequence[Tensor], weights: Tensor, result: Result) -> None:
    def seconds(call: Callable[[], object]) -> tuple[float, float]:
        wait = torch.cuda.synchronize if weights.device.type == "cuda" else int
        wait()
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        wait()
        return time.perf_counter() - wall, time.process_time() - cpu

    with torch.no_grad():
        result.forward = min(result.forward, seconds(lambda: scan(*inputs))[0])
    wall, cpu = seconds(lambda: _both(scan, inputs, weights))
    result.both, result.cpu = min(result.both, wall), min(result.cpu, cpu)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying 1 GiB on the GPU."""
    a = torch.empty(1 << 28, device="cuda")
    b, best = torch.empty_like(a), float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        b.copy_(a)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * a.numel() * a.element_size() / best


def show(case: Case, results: dict[str, Result], skipped: dict[str, str], bandwidth: float | None) -> None:
    """Print the table of one length."""
    ours = results[case.rows[0].name]
    gpu = ["GB/s forward", "of copy"] if bandwidth else []
    head = ["row", "forward ms", "fwd+bwd ms", "CPU ms", "times ours", "MiB forward", "MiB fwd+bwd", "distance", *gpu]
    print(f"\n{case.title}, {case.length} tokens\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name, r in results.items():
        rate = case.traffic / r.forward
        cells = [
            name,
            *(f"{1e3 * t:.4g}" for t in (r.forward, r.both, r.cpu)),
            f"{r.both / ours.both:.1f}",
            *(f"{m / 2**20:.0f}" for m in r.memory),
            f"{r.distance:.0e}",
            *([f"{rate / 1e9:.0f}", f"{100 * rate / bandwidth:.0f} %"] if bandwidth else []),
        ]
        print(f"| {' | '.join(cells)} |")
    for name, why in skipped.items():
        print(f"\nskipped {name}: {why[:160]}")
