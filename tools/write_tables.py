#!/usr/bin/env python3
"""Write the README's tables from the registry, the recipes, the data catalogue and the benchmark that comes along.

python tools/write_tables.py            rewrite them in place
python tools/write_tables.py --check    exit 1 if they are stale
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from unetkit.bench.evidence import read_evidence, shipped_evidence
from unetkit.cli import tables

README = Path(__file__).resolve().parents[1] / "README.md"


def markdown(rows: list[tables.Row]) -> str:
    """Lay rows out as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def benchmark() -> list[tables.Row]:
    """Return the mean IoU of the shipped benchmark, a row a model, the best first; with the SD of several trainings."""
    (path,) = shipped_evidence()
    sets = {known.name: known.scores["random", "iou"] for known in read_evidence(path).datasets}
    means: dict[str, list[float]] = {}
    for tested in sets.values():
        for model, mean in zip(tested.models, tested.means, strict=True):
            means.setdefault(model, []).append(float(mean))
    rows = []
    for model in sorted(means, key=lambda name: -float(np.mean(means[name]))):
        row: tables.Row = {"model": f"`{model}`"}
        for name, tested in sets.items():
            runs = tested.runs[tested.models.index(model)] if model in tested.models else np.array([np.nan])
            runs = runs[~np.isnan(runs)]
            spread = f" ± {np.std(runs, ddof=1):.3f}" if len(runs) > 1 else ""
            row[name] = f"{np.mean(runs):.3f}{spread}" if len(runs) else "failed"
        rows.append({**row, "mean": f"{np.mean(means[model]):.3f}"})
    return rows


def filled(text: str) -> str:
    """Return the README's text with every table between its two marks written anew."""
    found = {
        "models": tables.models([]),
        "recipes": tables.recipes([]),
        "datasets": tables.datasets([]),
        "benchmark": benchmark(),
    }
    for name, rows in found.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        body = f"{begin}\n{markdown(rows)}\n{end}"
        text, count = pattern.subn(lambda _, body=body: body, text)
        if count != 1:
            raise SystemExit(f"README.md: expected one table marked '{begin}' ... '{end}', found {count}")
    return text


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Write the README's tables.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is stale")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if check and after != before:
        print("README.md: the tables are stale; run python tools/write_tables.py")
        return 1
    if not check:
        README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
