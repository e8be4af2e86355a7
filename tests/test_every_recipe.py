"""Every recipe that comes with unetkit trains two steps on generated data, through the command line."""

import json
import shutil
from pathlib import Path

import pytest

from unetkit.cli import main
from unetkit.data.datasets import open_dataset
from unetkit.recipe import list_recipes, resolve
from unetkit.registry import model_info

SIDE = 32


def small(name: str) -> list[str]:
    """The words that make a recipe small: the smallest legal patch, two steps, generated data."""
    recipe = resolve(recipe=name).recipe
    sizes = [s for s in (recipe.data.patch_size, recipe.data.resize) if s]
    dims = len(sizes[0]) if sizes else max(model_info(recipe.model.name).dims)
    legal = list(model_info(recipe.model.name).legal_size((SIDE,) * dims))
    keys = [f"data.{key}={legal}" for key in ("patch_size", "resize") if getattr(recipe.data, key)]
    if isinstance(recipe.plan.spacing, tuple):  # generated voxels are coarse: finer ones would be thousands of windows
        keys.append("plan.spacing=native")
    if recipe.plan.strides and not recipe.plan.widths:
        keys.append(f"plan.widths={[8] * len(recipe.plan.strides)}")
    if not sizes:  # a recipe that leaves the patch to the plan
        keys = [f"data.patch_size={legal}", "plan.widths=[4, 8, 16, 16]"]
    return [
        *keys,
        f"data.dataset=phantom{dims}d",
        f"data.generator={{size: {[64] * dims}}}",
        "data.cases=3",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "train.batch_size=2",
        "train.workers=0",
    ]


def with_earlier_stage(name: str, words: list[str], folder: Path) -> list[str]:
    """Add, for a recipe that reads the maps of a stage before, maps that are the labels themselves."""
    recipe = resolve(words, recipe=name).recipe
    if not recipe.plan.previous:
        return words
    folder.mkdir()
    for case in open_dataset(recipe.data).cases:
        shutil.copy(case.label, folder / f"{case.id}{case.label.suffix}")
    return [*words, f"data.previous={folder}"]


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home
    words = with_earlier_stage(name, small(name), tmp_path / "stage")
    code = main(["train", f"recipe={name}", *words, f"output={tmp_path / 'runs'}", "--json"])
    streams = capsys.readouterr()
    assert code == 0, streams.err
    result = json.loads(streams.out.strip().splitlines()[-1])
    pretrains = resolve(recipe=name).recipe.task == "pretrain"
    assert result["loss"] > 0 if pretrains else 0 <= result["dice"] <= 1
    assert Path(result["report"]).is_file()
    assert Path(result["picture" if pretrains else "overlay"]).is_file()
    steps = [json.loads(line)["step"] for line in (Path(result["run"]) / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 2
