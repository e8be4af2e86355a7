"""The README: tables current, commands valid, names real."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unetkit.cli import VERBS
from unetkit.recipe import resolve

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^unetkit (\w+) ([^#\n]*)", README, re.MULTILINE)


def test_tables_are_current() -> None:
    out = subprocess.run(
        [sys.executable, ROOT / "tools" / "write_tables.py", "--check"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stdout + out.stderr


@pytest.mark.parametrize(("verb", "words"), COMMANDS, ids=[f"{v} {w}".strip() for v, w in COMMANDS])
def test_commands_of_the_readme_are_accepted(verb: str, words: str) -> None:
    import shlex

    assert verb in VERBS
    if verb in ("train", "inspect"):
        assert resolve([w for w in shlex.split(words) if not w.startswith("resume=")])


def test_python_names_of_the_readme_exist() -> None:
    import unetkit

    for name in set(re.findall(r"unetkit\.(\w+)\(", README)):
        assert callable(getattr(unetkit, name)), name


def test_changelog_speaks_of_this_version() -> None:
    from importlib.metadata import version

    assert f"## {version('unetkit')}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_top_level_holds_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert top <= {
        "pyproject.toml", "README.md", "unetkit", "recipes", "tests", "tools", ".ci", "LICENSE", "CHANGELOG.md",
        ".gitignore", ".pre-commit-config.yaml",
    }  # fmt: skip
