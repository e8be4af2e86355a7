"""Time the recurrent operators beside their peers, forward and backward, with peak memory.

python tools/bench_scan [selective_scan ssd ...] [--lengths 1024,4096,16384,65536] [--peers FOLDER] [--device cuda]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from timing import copy_bandwidth, measure, show

OPERATORS = {"selective_scan": "selective", "ssd": "ssd"}
"""Operator -> the file here that lists its rows."""


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", choices=[*OPERATORS, []], help="all when none is named")
    parser.add_argument("--lengths", default="1024,4096,16384,65536", help="tokens, separated by commas")
    parser.add_argument("--peers", type=Path, default=None, help="a folder with checkouts of the peers")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves them as they are")
    parser.add_argument("--slow", type=int, default=4096, help="longest input of the rows that are quadratic")
    parser.add_argument("--rows", default="", help="only rows with one of these words, separated by commas, and ours")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bandwidth = copy_bandwidth() if options.device == "cuda" else None
    for operator in options.operators or OPERATORS:
        rows = __import__(OPERATORS[operator])
        for length in (int(n) for n in options.lengths.split(",")):
            torch.manual_seed(0)
            case = rows.case(length, options)
            words = options.rows.split(",")
            case.rows = case.rows[:1] + [row for row in case.rows[1:] if any(word in row.name for word in words)]
            show(case, *measure(case, options.repeats), bandwidth)


if __name__ == "__main__":
    main()
