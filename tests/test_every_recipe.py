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
VOLUME = 40
"""Side of a generated volume: more than one window, and not many."""
FIVE, DEEP = [8, 16, 32, 64, 128], {"widths": [16, 40, 64]}
HYBRID = {"resnet_units": [1, 1, 1], "hidden": 48, "mlp": 96, "heads": 3, "layers": 2}
NARROW = {
    "att_swin_unet": {"embed_dim": 24},
    "daeformer": DEEP,
    "focal_unet": {"embed_dim": 16},
    "h2former": {"widths": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
    "iscf": DEEP,
    "missformer": {"widths": [16, 32, 80, 128]},
    "mpu_net": {"widths": FIVE},
    "nnformer": {"embed_dim": 24},
    "r2unet": {"widths": FIVE},
    "sam_unet": {"hidden": 64, "resnet": "resnet34"},
    "swin_umamba": {"width": 16, "depths": [1, 1, 1, 1]},
    "swin_unet": {"embed_dim": 24},
    "transdae": DEEP,
    "transnorm": HYBRID,
    "transunet": HYBRID,
    "u2net": {"shrink": 8},
    "unet3d": {"widths": [8, 16, 32, 64]},
    "unet3p": {"widths": FIVE},
    "unetr_plus_plus": {"widths": [8, 16, 32, 64, 64]},
}
"""Options that make networks of more than 20 million parameters light: at full width most time goes into files."""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that all recipes share, so that each kind of generated data is made once."""
    return tmp_path_factory.mktemp("home")


def small(name: str) -> list[str]:
    """The words that make a recipe small: the smallest legal patch, two steps, generated data."""
    recipe = resolve(recipe=name).recipe
    sizes = [s for s in (recipe.data.patch_size, recipe.data.resize) if s]
    slices = recipe.plan.configuration == "2d"
    dims = len(sizes[0]) if sizes else 2 if slices else max(model_info(recipe.model.name).dims)
    legal = list(model_info(recipe.model.name).legal_size((SIDE,) * dims))
    keys = [f"data.{key}={legal}" for key in ("patch_size", "resize") if getattr(recipe.data, key)]
    if isinstance(recipe.plan.spacing, tuple):  # generated voxels are coarse: finer ones would be thousands of windows
        keys.append("plan.spacing=native")
    if recipe.plan.strides and not recipe.plan.widths:
        keys.append(f"plan.widths={[8] * len(recipe.plan.strides)}")
    keys += [f"model.{key}={json.dumps(value)}" for key, value in NARROW.get(recipe.model.name, {}).items()]
    if not sizes:  # a recipe that leaves the patch to the plan
        keys.append(f"data.patch_size={legal}")
        if "widths" in model_info(recipe.model.name).options:
            keys.append("plan.widths=[4, 8, 16, 16]")
    space = 3 if slices else dims
    return [
        *keys,
        f"data.dataset=phantom{space}d",
        f"data.generator={{size: {[VOLUME] * 3 if space == 3 else [64, 64]}}}",
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
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(home))  # generated data are kept below the user's home
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
