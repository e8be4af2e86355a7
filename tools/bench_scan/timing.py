"""Times one row beside ours, in turns: forward and forward with backward, and the peak memory of each."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

Scan = Callable[..., Tensor]
SHORTEST = 1
"""Seconds that turns go on at least: short passes are repeated more often."""


@dataclass
class Row:
    """One implementation: `load` gives it, or raises what says why it is not there."""

    name: str
    load: Callable[[], Scan]


@dataclass
class Case:
    """Inputs of one length, all differentiated, and rows, the first of which is ours."""

    title: str
    inputs: list[Tensor]
    rows: list[Row]


@dataclass
class Result:
    """Smallest times in seconds, most memory in bytes beside the inputs, and the distance to the first row."""

    forward: float = float("inf")
    both: float = float("inf")
    memory: list[int] = field(default_factory=lambda: [0, 0])
    distance: float = 0.0
    turns: int = 0


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
            self.before = status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        cuda = self.device.type == "cuda"
        self.bytes = (torch.cuda.max_memory_allocated() if cuda else status("VmHWM")) - self.before


def status(key: str) -> int:
    """Return what the system says of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 0


def measure(inputs: Sequence[Tensor], scans: Sequence[Scan], repeats: int, seconds: float) -> list[Result]:
    """Return the result of each scan; turns end after `repeats` and SHORTEST, or when the next would pass `seconds`."""
    begin = clock(inputs[0].device)
    results, weights = [Result() for _ in scans], torch.randn(scans[0](*inputs).shape, device=inputs[0].device)
    truth: list[Tensor] = []
    for scan, result in zip(scans, results, strict=True):
        out = _remember(scan, inputs, weights, result)
        truth = truth or out
        result.distance = max(_distance(a, b) for a, b in zip(out, truth, strict=True))
        del out
    first = turn = clock(weights.device)
    for number in count(1):
        for place in range(len(scans)):
            which = (place + number) % len(scans)
            _time(scans[which], inputs, weights, results[which])
        now = clock(weights.device)
        if (number >= repeats and now - first > SHORTEST) or now - begin + (now - turn) > seconds:
            break
        turn = now
    # beside a row that is slow, ours would have but one turn
    for _ in range(repeats - number):
        _time(scans[0], inputs, weights, results[0])
    return results


def both(scan: Scan, inputs: Sequence[Tensor], weights: Tensor | None = None) -> list[Tensor]:
    """Run forward and backward; return the output and the gradients of its weighted sum by the inputs."""
    y = scan(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, torch.ones_like(y) if weights is None else weights.to(y.dtype))]


def _remember(scan: Scan, inputs: Sequence[Tensor], weights: Tensor, result: Result) -> list[Tensor]:
    """Run once for the memory and the results."""
    with _Peak(weights.device) as peak, torch.no_grad():
        scan(*inputs)
    result.memory[0] = peak.bytes
    with _Peak(weights.device) as peak:
        out = both(scan, inputs, weights)
    result.memory[1] = peak.bytes
    return out


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1))


def _time(scan: Scan, inputs: Sequence[Tensor], weights: Tensor, result: Result) -> None:
    def seconds(call: Callable[[], object]) -> float:
        start = clock(weights.device)
        call()
        return clock(weights.device) - start

    with torch.no_grad():
        result.forward = min(result.forward, seconds(lambda: scan(*inputs)))
    result.both = min(result.both, seconds(lambda: both(scan, inputs, weights)))
    result.turns += 1


def clock(device: torch.device) -> float:
    """Seconds of the wall on a GPU and with several threads, else of this thread: a busy machine does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    # the time of the process, once that is limited, moves in steps of 4 ms
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying 1 GiB on the GPU."""
    a = torch.empty(1 << 28, device="cuda")
    b, best = torch.empty_like(a), float("inf")
    for _ in range(10):
        start = clock(a.device)
        b.copy_(a)
        best = min(best, clock(a.device) - start)
    return 2 * a.numel() * a.element_size() / best
