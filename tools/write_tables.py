#!/usr/bin/env python3
"""Write the README's tables from the registry, the recipes and the data catalogue.

python tools/write_tables.py            rewrite them in place
python tools/write_tables.py --check    exit 1 if they are stale
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from unetkit.cli import tables

README = Path(__file__).resolve().parents[1] / "README.md"


def markdown(rows: list[tables.Row]) -> str:
    """Lay rows out as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def filled(text: str) -> str:
    """Return the README's text with every table between its two marks written anew."""
    found = {"models": tables.models([]), "recipes": tables.recipes([]), "datasets": tables.datasets([])}
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
