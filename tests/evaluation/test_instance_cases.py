"""Objects scored case by case: the same numbers from arrays, folders and the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetkit.cli import main
from unetkit.data.labels import encode
from unetkit.metrics import evaluate_case
from unetkit.metrics.instances import INSTANCE_METRICS, instance_scores
from unetkit.recipe.schema import EvaluateSection
from unetkit.types import Labels

CELLS = Labels(("cell",), ((1,),), instances=True, ignore=(999,))


def _maps() -> tuple[np.ndarray, np.ndarray]:
    """Two cells that touch are one object in the prediction; a third is found to the pixel."""
    ref = np.zeros((24, 24), np.uint16)
    ref[2:10, 2:10], ref[2:10, 10:16], ref[14:22, 4:20] = 1, 300, 5
    return np.where(ref == 300, 1, ref).astype(np.uint16), ref


def _scored(pred: np.ndarray, ref: np.ndarray, **rules: str) -> dict[str, float]:
    maps = (encode(array, CELLS, "here") for array in (pred, ref))
    return evaluate_case(*maps, CELLS, (1.0, 1.0), EvaluateSection(distances=False, **rules))["cell"]


def test_objects_are_scored_beside_the_foreground() -> None:
    pred, ref = _maps()
    scores = _scored(pred, ref)
    assert scores["dice"] == 1  # the foreground is right, the objects are not
    assert scores["ap50"] == pytest.approx(2 / 3)
    assert {name: scores[name] for name in INSTANCE_METRICS} == instance_scores(pred, ref)


def test_what_is_ignored_is_in_neither_map() -> None:
    pred, ref = _maps()
    ref[2:10, 10:16] = 999
    assert _scored(pred, ref)["ap"] == 1


def test_absent_objects_follow_the_rule() -> None:
    pred, _ = _maps()
    empty = np.zeros_like(pred)
    assert math.isnan(_scored(empty, empty)["pq"])
    assert _scored(empty, empty, empty="one")["pq"] == 1
    assert _scored(pred, empty, empty="one")["ap50"] == 0
    assert math.isnan(_scored(pred, empty)["ap50"])
    assert _scored(empty, pred)["ap50"] == 0


def test_folders_are_scored_by_one_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, array in zip(("pred", "ref"), _maps(), strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    words = [f"predictions={tmp_path / 'pred'}", f"references={tmp_path / 'ref'}", f"output={tmp_path / 'out'}"]
    assert main(["evaluate", *words, "data.instances=true"]) == 0
    text = capsys.readouterr().out
    assert "TP / (TP + FP + FN)" in text
    scores = json.loads((tmp_path / "out/metrics.json").read_text())
    assert scores["cases"]["a"]["object"]["ap50"] == pytest.approx(2 / 3)
    assert "panoptic quality" in scores["definitions"]["pq"]
    assert "AP50" in (tmp_path / "out/report.html").read_text()
