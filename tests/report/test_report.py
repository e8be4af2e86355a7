"""The page: complete in itself, true to the numbers, safe with any text."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from unetkit.errors import DataError
from unetkit.metrics import aggregate, describe, evaluate_case
from unetkit.recipe.schema import EvaluateSection
from unetkit.report import ReportData, Shown, take_picture, write_report
from unetkit.report.page import render_page
from unetkit.report.tables import heat, number
from unetkit.types import Labels, Volume

LABELS = Labels(("liver", "<b>spleen"), ((1,), (2,)))
HISTORY = (
    {"step": 10, "epoch": 1, "loss": 0.9, "lr": 0.01},
    {"step": 10, "epoch": 1, "epoch_loss": 0.9, "val_dice": 0.4, "val_dice_per_class": {"liver": 0.4, "x": None}},
    {"step": 20, "epoch": 2, "loss": 0.5, "lr": 0.005},
    {"step": 20, "epoch": 2, "epoch_loss": 0.5, "val_dice": 0.7, "val_dice_per_class": {"liver": 0.7, "x": None}},
)


class Page(HTMLParser):
    """Collects addresses and text, and fails on tags that do not match."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def data() -> ReportData:
    noise = np.random.default_rng(0).normal(size=(1, 24, 20, 6)).astype(np.float32)
    image = Volume(noise, (1.0, 1.0, 3.0), np.diag([1.0, 1.0, 3.0, 1.0]))
    ref = np.zeros((1, 24, 20, 6), np.uint8)
    ref[0, 4:14, 4:12, 1:5] = 1
    rows, pictures = {}, {}
    for shift, role in enumerate(("best", "median", "worst")):
        pred = np.roll(ref, shift, axis=1)
        pred[0, 18:22, 14:18, 2] = 2
        rows[f"case{shift}"] = evaluate_case(pred, ref, LABELS, image.spacing, EvaluateSection())
        pictures[role] = Shown(f"case{shift}", rows[f"case{shift}"]["liver"]["dice"], take_picture(image, pred, ref))
    return ReportData(
        title="quickstart_001",
        model="unet",
        dataset="phantom3d",
        classes=LABELS.classes,
        rows=rows,
        summary=aggregate(rows),
        definitions=describe(EvaluateSection()),
        failures={"case9": "the file is <cut> off"},
        pictures=pictures,
        history=HISTORY,
        recipe=[("train.epochs", "2", "command line"), ("seed", "0", "default")],
        reasons={"patch_size": "fits the memory"},
        versions={"unetkit": "0.1.0"},
        machine={"processor": "2 cores"},
        phantom=True,
    )


def test_the_page_is_complete_in_itself(data, tmp_path):
    text = write_report(tmp_path, data).read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not re.search(r"<script|@import|url\(\s*[\"']?http", text)
    for said in (
        "quickstart_001",
        "unet on phantom3d",
        "A phantom proves that the code works",
        f"{data.summary['dice']:.3f}",
        "95 % CI",
        "the file is <cut> off",
        "Best case: case0",
        "Worst case: case2",
        "false positive",
        "the patient's right is on the left",
        "border voxels",
        "fits the memory",
        "command line",
        "2 cores",
        "3 of 3",
    ):
        assert said in page.text
    assert "<b>spleen" not in text
    assert text.count("<svg") == 3


def test_pictures_are_written_too(data, tmp_path):
    write_report(tmp_path, data)
    names = ["curves.png", "overlay_best.png", "overlay_median.png", "overlay_worst.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_report_takes_away_the_pictures_it_replaces(data, tmp_path):
    write_report(tmp_path, data)
    (tmp_path / "pictures" / "overlay_of_mine.png").write_bytes(b"")
    write_report(tmp_path, replace(data, history=(), pictures={"best": data.pictures["best"]}))
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "overlay_best.png",
        "overlay_of_mine.png",
    ]


def test_a_bare_evaluation_has_a_report(data, tmp_path):
    bare = replace(data, history=(), pictures={}, recipe=(), reasons={}, versions={}, machine={}, failures={})
    page = Page(write_report(tmp_path, replace(bare, phantom=False)).read_text(encoding="utf-8"))
    assert "Training" not in page.text
    assert "phantom proves" not in page.text
    assert list((tmp_path / "pictures").iterdir()) == []


def test_no_scored_case_at_all(data):
    page = Page(render_page(replace(data, rows={}, summary=aggregate({}), pictures={})))
    assert "n/a" in page.text


def test_one_class_shows_its_metrics_by_case(data):
    rows = {case: {"liver": scores["liver"]} for case, scores in data.rows.items()}
    one = replace(data, rows=rows, summary=aggregate(rows), classes=("liver",), pictures={})
    text = render_page(one)
    assert f"{rows['case1']['liver']['hd95']:.2f}" in text
    assert "wrong class" not in text


def test_equal_data_give_an_equal_page(data):
    first, second = (render_page(replace(data, pictures={})) for _ in range(2))
    ids = re.compile(r"(id=\"|url\(#|href=\"#)[^\")]*")
    assert ids.sub("", first) == ids.sub("", second)


def test_a_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the report cannot be written .*; free space or choose another folder"):
        write_report(tmp_path / "file", data)


def test_numbers_and_colours():
    assert number("dice", 0.12345) == "0.123"
    assert number("hd95", 3.14159) == "3.14"
    assert number("volume_difference", -0.256) == "-25.6 %"
    assert number("assd", math.nan) == "n/a"
    assert heat(math.nan) == ""
    assert heat(0.0) == heat(0.4) == "background:#f4be96"
    assert heat(0.7) == "background:#fcf7ec"
    assert heat(1.0) == "background:#a6d0ec"
