"""The README's worked example, word for word: a model and data of one's own in a benchmark."""

import csv
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The block of the README that begins with its file's name."""
    (found,) = re.findall(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found


def install(place: Path) -> None:
    """Lay out what pip makes of the example's package: its module, and beside it metadata with the entry point."""
    project = tomllib.loads(example("pyproject.toml"))["project"]
    metadata = place / f"my_networks-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (place / "my_networks.py").write_text(example("my_networks.py"))
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def draw_cells(folder: Path) -> None:
    rng, grid = np.random.default_rng(0), np.indices((64, 64))
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        middle = rng.uniform(20, 44, 2)[:, None, None]
        disc = ((grid - middle) ** 2).sum(0) < rng.uniform(8, 16) ** 2
        grey = 60 + 100 * disc + rng.normal(0, 20, disc.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(disc.astype(np.uint8)).save(folder / "labels" / f"{number}.png")


@pytest.fixture
def unetkit(tmp_path, monkeypatch):
    """Run the command line in a folder, with the package installed, and return exit code, output and errors."""
    install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "unetkit", *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_example_of_the_readme_runs(unetkit, tmp_path):
    draw_cells(tmp_path / "cells")
    (tmp_path / "my_bench.yaml").write_text(example("my_bench.yaml"))
    short = [f"data_root={tmp_path}", "seeds=[0]", "budget.steps=4", "budget.validations=1"]
    code, out, errors = unetkit("bench", "recipe=my_bench.yaml", *short, "recipe.train.workers=0", "--json")
    assert code == 0, errors
    assert json.loads(out.splitlines()[-1])["jobs"] == {"done": 3}
    with (tmp_path / "benches" / "my_bench" / "results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"baseline", "sum_unet", "wide"}
    # 1 channel to 64, 64 to 64, 64 to background and cell
    weights = (9 * 1 + 1) * 64 + (9 * 64 + 1) * 64 + (64 + 1) * 2
    assert float(rows["wide"]["params_m"]) == pytest.approx(weights / 1e6)
    assert all(0 <= float(row["dice"]) <= 1 and row["cases"] == "2" for row in rows.values())


def test_an_installed_model_is_known_and_a_broken_package_is_named(unetkit, tmp_path):
    code, out, _ = unetkit("show", "model=sum_unet")
    assert code == 0
    assert "adds its skips instead of joining them" in " ".join(out.split())
    (tmp_path / "site" / "my_networks.py").unlink()
    code, _, errors = unetkit("list", "models")
    assert code == 2
    assert "package my-networks: its entry point unetkit.models, mine = my_networks, names no module" in errors


def test_a_name_that_unetkit_has_is_refused(unetkit, tmp_path):
    path = tmp_path / "site" / "my_networks.py"
    path.write_text(path.read_text().replace("def sum_unet", "def unetpp"))
    code, _, errors = unetkit("show", "model=unetpp")
    assert code == 2
    assert "model 'unetpp' stands in unetkit.models.unetpp and in my_networks; rename one" in errors
