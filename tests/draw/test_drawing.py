"""Pictures of networks: made from the network itself, whole, legible."""

import json
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from unetkit.cli import main
from unetkit.draw import draw_model
from unetkit.draw.boxes import Box, Map, read_map
from unetkit.draw.layout import place_boxes
from unetkit.errors import ModelError
from unetkit.registry import catalog

SVG = "{http://www.w3.org/2000/svg}"


def boxes_of(text):
    """(x, y, width, height, lines of text) of each box, the page's size, and the number of lines drawn."""
    root = ElementTree.fromstring(text)
    found = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        corners = tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
        found.append((*corners, [t.text or "" for t in group.findall(f"{SVG}text")]))
    return found, (float(root.get("width")), float(root.get("height"))), len(list(root.iter(f"{SVG}polyline")))


@pytest.mark.parametrize("name", sorted(catalog()))
def test_every_network_can_be_drawn(name):
    dims = max(catalog()[name].dims)
    boxes, (width, height), lines = boxes_of(draw_model(name, dims=dims))
    assert len(boxes) > 2
    assert lines >= len(boxes) - 1, "everything but the input is fed from something"
    for x, y, w, h, texts in boxes:
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
        # 7 pixels a letter is more than any of the fonts named takes at this size
        assert max(map(len, texts)) * 7 <= w + 14
    for (x, y, w, h, _), (u, v, *_) in combinations(boxes, 2):
        assert abs(x - u) >= w or abs(y - v) >= h, "two boxes lie on each other"


def test_a_unet_has_a_row_for_each_level_and_its_skips():
    text = draw_model("unet")
    boxes, _, _ = boxes_of(text)
    assert [b[4][0] for b in boxes[:6]] == ["input", *(f"encoder.stages.{i}" for i in range(5))]
    assert [b[4][2] for b in boxes if b[4][0] == "encoder.stages.4"] == ["1024 · 16 x 16"]
    assert len({b[1] for b in boxes}) == 5
    assert text.count('class="line skip"') == 4


def test_equal_blocks_in_a_row_are_one_box():
    assert "12 x TransformerBlock" in draw_model("transunet")


def test_maps_are_read_from_any_order_of_axes():
    assert read_map((1, 96, 56, 56), (224, 224), ()) == Map(96, (56, 56))
    assert read_map((1, 56, 56, 96), (224, 224), ()) == Map(96, (56, 56))
    assert read_map((1, 197, 768), (224, 224), [(14, 14)]) == Map(768, (14, 14))
    assert read_map((1, 1000), (224, 224), [(14, 14)]) is None


def test_lines_pass_no_box_but_their_own():
    """A dense row: each box is fed by all before it, and by another row."""
    fine = [Box(f"f{i}", "Conv2d", 8, (64, 64), tuple(range(i))) for i in range(5)]
    deep = [Box("d0", "Conv2d", 8, (32, 32), (0,)), Box("d1", "Conv2d", 8, (8, 8), (2, 5))]
    layout = place_boxes([*fine, *deep, Box("out", "Conv2d", 2, (64, 64), (4, 6))])
    for points in layout.lines:
        for (x0, y0), (x1, y1) in pairwise(points):
            for place in layout.places:
                inside_x = max(x0, x1) > place.x + 1 and min(x0, x1) < place.x + place.width - 1
                inside_y = max(y0, y1) > place.y + 1 and min(y0, y1) < place.y + 49
                assert not (inside_x and inside_y), (points, place.box.path)


def test_the_command_draws_beside_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pictures" / "unet.svg"
    assert main(["show", "model=unet", f"draw={path}", "dims=3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["drawing"]) == ("unet", str(path))
    assert "64³" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model=unet", "draw=unet.png"], "drawn as SVG; name the file unet.png.svg"),
        (["model=unet", "dims=3"], "draw is missing; give draw=VALUE"),
        (["model=unett", "draw=a.svg"], "there is no model 'unett' (did you mean 'unet'?)"),
        (["model=unet", "widths=[4]"], "takes no further words but draw=FILE.svg and dims=2 or 3"),
    ],
)
def test_refusals(words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", *words]) == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_dims_that_a_network_lacks() -> None:
    with pytest.raises(ModelError, match="there is no 3D network; choose dims=2"):
        draw_model("transunet", dims=3)
