#!/usr/bin/env python3
"""Measure the package against the numbers the project holds; print what breaks them; exit 1 if anything does.

    python tools/style.py [--worst]

A file or function is counted as it stands, docstrings left out of functions. A repeat is a run of 8 code lines
(imports left out) that stands at two places. `--worst` lists the longest files and functions.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parents[1] / "unetkit"
RUN = 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(body: list[ast.stmt], public: bool = True) -> Iterator[tuple[Function, bool]]:
    """Yield the functions and methods of a module with whether they are public; inner functions count as part."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, public and not node.name.startswith("_"))
        elif isinstance(node, Function):
            yield node, public and not node.name.startswith("_")
        elif isinstance(node, ast.If | ast.Try):
            yield from functions(node.body, public)


def length(node: Function) -> int:
    """Lines of a function without its docstring."""
    # the docstring is no length to be ashamed of
    has = ast.get_docstring(node, clean=False) is not None
    doc = node.body[0].end_lineno - node.body[0].lineno + 1 if has else 0
    return node.end_lineno - node.lineno + 1 - doc


def parameters(node: Function) -> list[ast.arg]:
    """All parameters but self and cls."""
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return [x for x in every if x.arg not in ("self", "cls")]


def swallows(node: Function) -> bool:
    """True if **kwargs are taken and not passed on in a call."""
    if node.args.kwarg is None:
        return False
    name = node.args.kwarg.arg
    return not any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(node))


def code_lines(text: str) -> list[str]:
    """Stripped code lines: no blanks, comments, docstrings or imports."""
    keep: set[int] = set()
    previous = tokenize.INDENT
    skip = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        # a string that opens a statement is a docstring, or the description of the constant above it
        opens = previous in (tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE)
        if token.type not in skip and not (token.type == tokenize.STRING and opens):
            # from its first line to its last: strings may span several
            keep.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type
    lines = text.splitlines()
    stripped = (lines[n - 1].split("  #")[0].strip() for n in sorted(keep))
    # lone brackets and imports are alike everywhere and would join runs that are no repeats
    return [s for s in stripped if len(s) > 1 and not s.startswith(("import ", "from "))]


def repeated(code: dict[str, list[str]]) -> tuple[float, list[str]]:
    """Share of code lines in repeated runs, and where those runs start."""
    seen: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in code.items():
        for start in range(len(lines) - RUN + 1):
            seen[tuple(lines[start : start + RUN])].append((name, start))
    twice = [places for places in seen.values() if len(places) > 1]
    # runs overlap, so lines are counted, not runs
    hit = {(name, line) for places in twice for name, start in places for line in range(start, start + RUN)}
    where = sorted({f"{places[0][0]} ~ {places[1][0]}" for places in twice})
    return len(hit) / max(1, sum(map(len, code.values()))), where


def tower(bases: dict[str, set[str]], name: str) -> int:
    """How many classes of the package stand on each other, `name` on top."""
    return 1 + max((tower(bases, b) for b in bases[name] if b in bases and b != name), default=0)


def p90(values: list[int]) -> int:
    """The 90th percentile of whole numbers."""
    return sorted(values)[min(len(values) - 1, int(0.9 * len(values)))]


def measure() -> tuple[dict[str, tuple[float, float]], list[str], list[tuple[int, str]]]:
    """Return {number: (measured, bound)}, the places at fault, and functions and files by length."""
    trees = {p: ast.parse(p.read_text(encoding="utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}
    files = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in trees}
    found = [(p, f, public) for p, tree in trees.items() for f, public in functions(tree.body)]
    classes = [(p, n) for p, t in trees.items() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    bases = {n.name: {b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in n.bases} for _, n in classes}
    share, where = repeated({str(p.relative_to(PACKAGE)): code_lines(p.read_text(encoding="utf-8")) for p in trees})
    shown = [f for _, f, public in found if public]
    open_classes = [n for _, n in classes if not n.name.startswith("_")]
    documented = [ast.get_docstring(n) is not None for n in [*shown, *open_classes]]
    untyped = [f"{p.name}: {f.name}" for p, f, _ in found if any(a.annotation is None for a in parameters(f))]
    takers = [f"{p.name}: {f.name} swallows **{f.args.kwarg.arg}" for p, f, _ in found if swallows(f)]
    env = [f"{p.name}:{n.lineno} uses the environment" for p, t in trees.items() for n in ast.walk(t) if _env(n)]
    lengths = [length(f) for _, f, _ in found]
    numbers = {
        "median lines of a file": (median(files.values()), 150),
        "longest file": (max(files.values()), 500),
        "median lines of a function": (median(lengths), 10),
        "90th percentile of function lines": (p90(lengths), 35),
        "longest function": (max(lengths), 80),
        "90th percentile of parameters": (p90([len(parameters(f)) for _, f, _ in found]), 6),
        "undocumented public names, %": (100 * (1 - sum(documented) / len(documented)), 5),
        "functions with untyped parameters": (len(untyped), 0),
        "repeated lines, %": (100 * share, 3),
        "base classes of our own, deep": (max(tower(bases, b) for b in bases), 2),
        "functions that swallow **kwargs": (len(takers), 0),
        "uses of environment variables": (len(env), 0),
    }
    long = [(n, str(p.name)) for p, n in files.items()] + [(length(f), f"{p.name}: {f.name}") for p, f, _ in found]
    return numbers, [*untyped, *takers, *env, *(where if share > 0.03 else [])], sorted(long, reverse=True)


def _env(node: ast.AST) -> bool:
    named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    return named or (isinstance(node, ast.Name) and node.id in ("environ", "getenv"))


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Measure the package against the numbers the project holds.")
    parser.add_argument("--worst", action="store_true", help="list the longest files and functions")
    worst = parser.parse_args().worst
    numbers, places, long = measure()
    broken = {name for name, (got, bound) in numbers.items() if got > bound}
    for name, (got, bound) in numbers.items():
        print(f"{'FAIL' if name in broken else 'ok':<5}{name:<38}{got:8.1f}  (at most {bound})")
    for line in places if broken else []:
        print(f"     {line}")
    for n, name in long[:15] if worst else []:
        print(f"{n:6d}  {name}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
