"""Objects with scores: files beside label maps, AP over all cases, and what the command line makes of both."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetkit.cli import main
from unetkit.data.instances import encode_instances
from unetkit.errors import DataError
from unetkit.evaluation.ranking import ranked_case, ranked_precision
from unetkit.infer.scores import read_scores, scores_file, write_scores
from unetkit.metrics.instances import coco_average_precision


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Three cells, of which two are found; a third prediction is none."""
    ref = np.zeros((24, 24), np.uint16)
    ref[2:10, 2:10], ref[2:10, 12:18], ref[14:22, 4:12] = 1, 300, 5
    pred = np.zeros_like(ref)
    pred[2:10, 2:10], pred[2:10, 12:18], pred[16:22, 16:22] = 2, 1, 3
    return pred, ref


def test_scores_order_the_objects_of_all_cases() -> None:
    pred, ref = (encode_instances(array, (), "here") for array in maps())
    good = ranked_case(pred, ref, np.float32([0.9, 0.8, 0.1]))
    bad = ranked_case(pred, ref, np.float32([0.5, 0.4, 0.95]))
    assert good.scores.tolist() == pytest.approx([0.9, 0.8, 0.1])
    assert ranked_precision([good])["ranked_ap50"] == pytest.approx(67 / 101)  # two of three, then nothing
    assert ranked_precision([bad])["ranked_ap50"] < ranked_precision([good])["ranked_ap50"]
    both = coco_average_precision([good.iou, bad.iou], [good.scores, bad.scores])
    assert ranked_precision([good, bad])["ranked_ap50"] == pytest.approx(both)


def test_ignored_objects_take_no_score_with_them() -> None:
    pred, ref = (encode_instances(array, (), "here") for array in maps())
    ref[:, :12] = 255
    found = ranked_case(pred, ref, np.float32([0.9, 0.8, 0.1]))
    assert found.iou.shape == (1, 1)
    assert found.scores.tolist() == pytest.approx([0.1])


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    assert read_scores(file, np.arange(4)) is None
    write_scores(file, np.float32([0.75, 0.5, 0.25]))
    assert scores_file(file) == tmp_path / "a_scores.json"
    assert json.loads(scores_file(file).read_text()) == {"1": 0.75, "2": 0.5, "3": 0.25}
    found = read_scores(file, np.arange(4))
    assert found is not None
    assert found.tolist() == [0.75, 0.5, 0.25]
    with pytest.raises(DataError, match=r"a_scores.json: has no score of object 9 of a.nii.gz"):
        read_scores(file, np.array([9]))
    scores_file(file).write_text("[]")
    with pytest.raises(DataError, match=r"a_scores.json: cannot be read"):
        read_scores(file, np.arange(4))


def test_label_maps_with_scores_are_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, array in zip(("pred", "ref"), maps(), strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    words = ["evaluate", f"predictions={tmp_path / 'pred'}", f"references={tmp_path / 'ref'}", "data.instances=true"]
    assert main([*words, "--json"]) == 0
    assert "ranked_ap" not in json.loads(capsys.readouterr().out)["summary"]
    write_scores(tmp_path / "pred/a.png", np.float32([0.9, 0.8, 0.1]))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["ranked_ap50"] == pytest.approx(67 / 101)
    assert main(words) == 0
    assert "AP ranked by scores over all cases" in capsys.readouterr().out


def test_from_recipe_to_scores_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [
        "model={name: iaunet, encoder: resnet18, channels: 8, queries: 8, decoder_layers: 1}",
        "data.dataset=phantom2d",
        "data.generator={family: cells, target: instances, size: [48, 64]}",
        "data.instances=true",
        "data.cases=4",
        "data.patch_size=[32, 32]",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "train.workers=0",
        "infer.query_score=0.0",
        f"output={tmp_path}",
        "name=run",
    ]
    assert main(["train", *words]) == 0
    assert "ranked_ap" in json.loads((tmp_path / "run/metrics.json").read_text())["summary"]
    assert main(["predict", f"run={tmp_path / 'run'}", "split=test", f"output={tmp_path / 'maps'}"]) == 0
    written = sorted((tmp_path / "maps").glob("*.png"))
    assert written
    for file in written:
        numbers = np.asarray(Image.open(file))
        scores = json.loads(scores_file(file).read_text())
        assert {int(number) for number in scores} == set(np.unique(numbers[numbers > 0]).tolist())
    capsys.readouterr()
