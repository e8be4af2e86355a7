"""Time the recurrent operators beside their peers, forward and backward, with peak memory.

python tools/bench_scan [selective_scan ssd mlstm bi_wkv hsm_ssd] [--lengths 1024,4096,16384,65536] [--peers FOLDER]
    [--rows WORDS] [--limit SECONDS] [--threads 1] [--device cuda]

Every row is measured in turns with ours in a process of its own. One that takes longer than the limit says so and is
not tried at greater lengths. With one thread on a CPU, times are those of the process: a busy machine does not count.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import cell
import table
import torch
from timing import copy_bandwidth

OPERATORS = {"selective_scan": "selective", "ssd": "ssd", "mlstm": "mlstm", "bi_wkv": "wkv", "hsm_ssd": "hsm"}
"""Operator -> the file here that lists its rows."""


def main() -> None:
    """Command line entry point."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    lengths = [int(n) for n in options.lengths.split(",")]
    if options.cell:
        torch.manual_seed(0)
        cell.child(importlib.import_module(OPERATORS[options.operators[0]]).case(lengths[0], options), options)
        return
    bandwidth = copy_bandwidth() if options.device == "cuda" else None
    if bandwidth:
        print(f"copying on {torch.cuda.get_device_name()}: {bandwidth / 1e9:.0f} GB/s read and written")
    for operator in options.operators or OPERATORS:
        _operator(operator, lengths, options, bandwidth)


def _operator(operator: str, lengths: list[int], options: argparse.Namespace, bandwidth: float | None) -> None:
    """Print the tables of one operator."""
    words, beyond = options.rows.split(","), {}
    for length in lengths:
        case = importlib.import_module(OPERATORS[operator]).case(1, options)
        table.head(case.title, length, bandwidth)
        names = [row.name for row in case.rows]
        for name in names[:1] + [name for name in names[1:] if any(word in name for word in words)]:
            found = beyond.get(name) or cell.run(operator, length, name, options)
            if isinstance(found, str):
                end = f" at {length} tokens" if found.startswith((">", "needs")) and "tokens" not in found else ""
                beyond[name] = found + end
            table.line(name, found, bandwidth)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", choices=[*OPERATORS, []], help="all when none is named")
    parser.add_argument("--lengths", default="1024,4096,16384,65536", help="tokens, separated by commas")
    parser.add_argument("--rows", default="", help="ours, and rows with one of these words, separated by commas")
    parser.add_argument("--peers", type=Path, default=None, help="a folder with checkouts of the peers")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5, help="turns, fewer where they would pass the limit")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds for a row at one length, of the process on a CPU"
    )
    parser.add_argument("--memory", type=float, default=12, help="GiB that a row may take on the CPU")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; 0 leaves them as they are")
    parser.add_argument("--cell", default="", help="measure this row alone and print it as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
