"""Shared pieces of the peer benchmarks: interleaved timing, peak memory, tables.

A *contender* is a zero-argument callable. ``Contenders.add(name)`` registers the
factory that builds it; the factory imports its library lazily, so a library that is
not installed shows up as a skipped column and never breaks the others.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

Factory = Callable[[], Callable[[], Any]]


class Contenders:
    def __init__(self) -> None:
        self._factories: dict[str, Factory] = {}

    def add(self, name: str) -> Callable[[Factory], Factory]:
        def register(factory: Factory) -> Factory:
            self._factories[name] = factory
            return factory

        return register

    def names(self) -> list[str]:
        return list(self._factories)

    def build(self, wanted: list[str] | None) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
        ready: dict[str, Callable[[], Any]] = {}
        skipped: dict[str, str] = {}
        for name, factory in self._factories.items():
            if wanted and name not in wanted:
                continue
            try:
                ready[name] = factory()
            except Exception as err:  # a missing or incompatible peer is a result, not a crash
                skipped[name] = f"{type(err).__name__}: {err}"
        return ready, skipped


def _reset_peak() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
        return True
    except OSError:
        return False


def _status_mib(key: str) -> float:
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


def run(
    ready: dict[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    budget_s: float = 0.0,
) -> tuple[dict[str, dict[str, float]], dict[str, Any], dict[str, str]]:
    """Time every contender round after round, starting each round one place later.

    Interleaving makes a slow spell of a shared machine hit every column alike, so the
    *ratio of medians* is meaningful where the absolute times are not. The process's CPU
    time is kept beside the wall time: with one thread it is the steadier of the two when
    other programs want the same cores.
    """
    outputs: dict[str, Any] = {}
    failed: dict[str, str] = {}
    peak: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for name, call in ready.items():
        try:
            for _ in range(max(1, warmup)):
                outputs[name] = None
                gc.collect()
                can = _reset_peak()
                before = _status_mib("VmRSS")
                t0 = time.perf_counter()
                outputs[name] = call()
                first = time.perf_counter() - t0
                peak[name] = _status_mib("VmHWM") - before if can else float("nan")
            times[name], cpu[name] = [], []
            print(f"  warmed {name}: {first:.3f} s, +{peak[name]:.0f} MiB peak", file=sys.stderr, flush=True)
        except Exception as err:
            failed[name] = f"{type(err).__name__}: {err}"
            print(f"  FAILED {name}: {failed[name][:300]}", file=sys.stderr, flush=True)
    order = list(times)
    started = time.perf_counter()
    for r in range(repeats):
        turn = order[r % len(order) :] + order[: r % len(order)] if order else []
        for name in turn:
            gc.collect()
            c0, t0 = time.process_time(), time.perf_counter()
            ready[name]()
            times[name].append(time.perf_counter() - t0)
            cpu[name].append(time.process_time() - c0)
        if budget_s and time.perf_counter() - started > budget_s:
            break
    stats = {
        n: {
            "median_s": statistics.median(t),
            "cpu_s": statistics.median(cpu[n]),
            "cpu_mean_s": statistics.fmean(cpu[n]),
            "min_s": min(t),
            "max_s": max(t),
            "n": len(t),
            "peak_mib": peak[n],
        }
        for n, t in times.items()
        if t
    }
    return stats, outputs, failed


def report(
    title: str,
    stats: dict[str, dict[str, float]],
    reference: str | None,
    extra: dict[str, dict[str, Any]] | None = None,
    skipped: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    json_path: str | None = None,
) -> None:
    if not stats:
        print("nothing was measured", skipped)
        return
    if reference not in stats:
        reference = next(iter(stats))
    base, base_cpu = stats[reference]["median_s"], stats[reference]["cpu_s"]
    extra = extra or {}
    cols = sorted({k for row in extra.values() for k in row})
    head = [
        "contender",
        "wall s (median)",
        "min..max",
        "CPU s",
        f"wall speed vs {reference}",
        "CPU speed",
        "peak MiB",
        *cols,
    ]
    rows = []
    for n, s in sorted(stats.items(), key=lambda kv: kv[1]["median_s"]):
        rows.append(
            [
                n,
                f"{s['median_s']:.4g}",
                f"{s['min_s']:.4g}..{s['max_s']:.4g}",
                f"{s['cpu_s']:.4g}",
                f"{base / s['median_s']:.2f}x",
                f"{base_cpu / max(s['cpu_s'], 1e-9):.2f}x",
                f"{s['peak_mib']:.0f}",
                *[_fmt(extra.get(n, {}).get(c, "")) for c in cols],
            ]
        )
    print(f"\n## {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for r in rows:
        print("| " + " | ".join(str(x) for x in r) + " |")
    for n, why in (skipped or {}).items():
        print(f"\nskipped {n}: {why[:200]}")
    if json_path:
        with open(json_path, "w") as f:
            json.dump(
                {
                    "title": title,
                    "reference": reference,
                    "stats": stats,
                    "extra": extra,
                    "skipped": skipped or {},
                    "settings": settings or {},
                    "environment": environment(),
                },
                f,
                indent=1,
                default=str,
            )


def _fmt(v: Any) -> str:
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def environment() -> dict[str, str]:
    info = {
        "python": platform.python_version(),
        "cpus": str(os.cpu_count()),
        "machine": platform.machine(),
    }
    import importlib.metadata as md

    for dist in (
        "torch",
        "monai",
        "nnunetv2",
        "batchgeneratorsv2",
        "scipy",
        "scikit-image",
        "numpy",
        "edt",
        "connected-components-3d",
        "surface-distance",
        "MedPy",
        "onnxruntime",
        "openvino",
        "unetkit",
    ):
        with contextlib.suppress(md.PackageNotFoundError):
            info[dist] = md.version(dist)
    try:
        import torch

        info["cuda"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
        info["amx"] = str(getattr(torch.cpu, "_is_amx_tile_supported", lambda: "?")())
    except ImportError:
        pass
    return info


def keep_heap() -> bool:
    """Ask glibc to keep freed pages (Linux): big temporaries stop paying page faults on every allocation."""
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(-3, 1 << 30)) and bool(
            libc.mallopt(-1, 0x7FFFFFFF)
        )  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return False


def as_group_norm(net):
    """Replace InstanceNorm (affine, no running statistics) by the equal GroupNorm with one group per channel."""
    from torch import nn

    for _name, child in list(net.named_children()):
        if isinstance(child, (nn.InstanceNorm2d, nn.InstanceNorm3d)) and not child.track_running_stats:
            g = nn.GroupNorm(child.num_features, child.num_features, eps=child.eps, affine=child.affine)
            g.load_state_dict(child.state_dict())
            # blocks that keep the same module twice (attribute and Sequential) must get the same replacement
            for owner in net.modules():
                for k, v in list(owner.named_children()):
                    if v is child:
                        setattr(owner, k, g)
        else:
            as_group_norm(child)
    return net


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--repeats", type=int, default=5, help="timed rounds")
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--budget", type=float, default=0.0, help="stop adding rounds after this many seconds (0: never)")
    p.add_argument("--threads", type=int, default=0, help="torch threads (0: leave as is)")
    p.add_argument("--only", default="", help="contenders to run, separated by semicolons")
    p.add_argument("--reference", default="", help="contender that ratios refer to")
    p.add_argument("--json", default=None, help="write the result here")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--keep-heap", action="store_true", help="tune glibc to keep freed pages (see keep_heap)")
    return p


def shape3(text: str) -> tuple[int, int, int]:
    v = tuple(int(x) for x in text.lower().split("x"))
    if len(v) != 3:
        raise argparse.ArgumentTypeError("expected three sizes such as 96x96x96")
    return v  # type: ignore[return-value]


def wanted(args: argparse.Namespace) -> list[str] | None:
    return [x.strip() for x in args.only.split(";") if x.strip()] or None
