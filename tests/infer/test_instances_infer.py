"""Objects told apart by a watershed, and the whole way from a recipe to numbered label maps and their scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from unetkit.cli import main
from unetkit.data.instances import border_distance
from unetkit.data.volumes import read_volume
from unetkit.errors import RecipeError
from unetkit.infer.instances import check_instance_settings, foreground, separated
from unetkit.metrics import instance_scores
from unetkit.recipe.schema import InferSection
from unetkit.types import Labels, instance_numbers

CELLS = Labels(("cell",), ((1,),), instances=True)


def balls(dims: int) -> np.ndarray:
    """Three balls, two of which touch, and a dot."""
    grid = np.indices((40,) * dims)
    numbers = np.zeros((40,) * dims, int)
    for number, (place, radius) in enumerate([((12, 12, 12), 7), ((12, 25, 12), 6), ((30, 20, 30), 6)], start=1):
        numbers[sum((a - p) ** 2 for a, p in zip(grid, place, strict=False)) <= radius**2] = number
    numbers[(38,) * dims] = 4
    return numbers


def found(numbers: np.ndarray, distance: np.ndarray, **settings: float) -> np.ndarray:
    inside = (numbers > 0).astype(np.uint8)[None]
    return instance_numbers(separated(inside, distance, InferSection(**settings), "here"))


@pytest.mark.parametrize("dims", [2, 3])
def test_true_distances_give_the_true_objects(dims: int) -> None:
    numbers = balls(dims)
    objects = found(numbers, border_distance(numbers))
    scores = instance_scores(objects, numbers)
    assert scores["ap"] == 1
    assert scores["aji"] > 0.98  # a voxel of the seam may be either's
    assert np.array_equal(objects > 0, numbers > 0)


def test_objects_without_a_middle_are_kept_and_small_ones_dropped() -> None:
    numbers = balls(2)
    flat = np.where(numbers == 3, 0.2, border_distance(numbers)).astype(np.float32)
    assert instance_scores(found(numbers, flat), numbers)["ap50"] == 1
    assert found(numbers, flat, smallest_object=2).max() == 3


def test_thresholds_split_and_join() -> None:
    numbers = balls(2)
    blurred = distance_transform_edt(numbers > 0) / 7  # of the two that touch together: a neck between them
    assert found(numbers, blurred, marker_threshold=0.6).max() == 4
    assert found(numbers, blurred, marker_threshold=0.1).max() == 3
    chances = np.stack([np.full((2, 2), 0.4), np.zeros((2, 2))]).astype(np.float32)
    assert foreground(chances, InferSection()).max() == 0
    assert foreground(chances, InferSection(foreground_threshold=0.3)).min() == 1


def test_nothing_gives_no_object() -> None:
    nothing = np.zeros((6, 6))
    assert found(nothing, nothing).max() == 0


def test_settings_without_meaning_are_refused() -> None:
    organs = Labels(("liver",), ((1,),))
    check_instance_settings(InferSection(), organs)
    with pytest.raises(RecipeError, match=r"infer.marker_threshold is for instances, these labels are classes"):
        check_instance_settings(InferSection(marker_threshold=0.4), organs)
    with pytest.raises(RecipeError, match=r"infer.restore=labels: objects are told apart"):
        check_instance_settings(InferSection(restore="labels"), CELLS)


def test_from_recipe_to_numbered_label_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [
        "data.dataset=phantom2d",
        "data.generator={family: cells, target: instances, size: [64, 64]}",
        "data.instances=true",
        "data.cases=4",
        "data.patch_size=[32, 32]",
        "data.resize=[48, 48]",
        "model.widths=[4, 4, 8, 8]",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "train.workers=0",
        f"output={tmp_path}",
        "name=run",
    ]
    assert main(["train", *words]) == 0
    scores = json.loads((tmp_path / "run/metrics.json").read_text())
    assert {"ap50", "pq", "aji"} <= set(scores["summary"]["mean"])
    predict = [f"run={tmp_path / 'run'}", "split=test", f"output={tmp_path / 'maps'}", "infer.foreground_threshold=0.3"]
    assert main(["predict", *predict]) == 0
    maps = sorted((tmp_path / "maps").glob("*.png"))
    assert maps
    assert all(read_volume(file, label=True).shape == (64, 64) for file in maps)
    capsys.readouterr()
    truth = next(tmp_path.glob(".cache/unetkit/phantom2d-*/manifest.json")).parent / "instances"
    given = [f"predictions={tmp_path / 'maps'}", f"references={truth}", "data.instances=true", "--json"]
    # the references hold training cases too, which nobody predicted
    assert main(["evaluate", *given]) == 2
    for file in truth.iterdir():
        if file.name not in {map_.name for map_ in maps}:
            file.unlink()
    capsys.readouterr()
    assert main(["evaluate", *given]) == 0
    assert "ap50" in json.loads(capsys.readouterr().out.strip().splitlines()[-1])["summary"]["mean"]
