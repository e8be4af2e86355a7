"""UNet++ cut to its first columns after training: same numbers, fewer of them computed, told by a command."""

import json
from pathlib import Path

import pytest
import torch

from unetkit.cli import main
from unetkit.errors import ModelError, RecipeError
from unetkit.infer.network import pruned
from unetkit.registry import create_model

NARROW = (4, 6, 8, 10, 12)
TRAIN = (
    "data.dataset=phantom2d",
    "data.cases=6",
    "data.generator={size: [32, 32]}",
    "data.patch_size=[32, 32]",
    "model.name=unetpp",
    "model.widths=[4, 6, 8, 10]",
    "model.dropout=0",
    "train.epochs=4",
    "train.steps_per_epoch=6",
    "train.batch_size=2",
    "train.device=cpu",
    "train.workers=0",
)


@pytest.mark.parametrize(
    "options",
    [{"widths": NARROW}, {"widths": NARROW, "variant": "monai"}, {"widths": (*NARROW, 12), "variant": "nnunet"}],
)
def test_every_depth_gives_the_output_of_its_own_head(options):
    whole = create_model("unetpp", patch_size=(64, 64), deep_supervision=True, **options).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        outputs = whole(x)
        assert whole.depths == tuple(range(1, len(outputs) + 1))
        for depth, want in zip(whole.depths, reversed(outputs), strict=True):
            torch.testing.assert_close(pruned(whole, depth)(x), want)


def test_a_cut_network_holds_less_and_leaves_the_whole_as_it_was():
    whole = create_model("unetpp", patch_size=(32, 32), deep_supervision=True, widths=NARROW).eval()
    before = whole.state_dict()
    counts = [sum(p.numel() for p in whole.at_depth(d).parameters()) for d in whole.depths]
    assert counts == sorted(counts)
    for depth, count in zip(whole.depths, counts, strict=True):
        part = create_model("unetpp", patch_size=(32, 32), depth=depth, widths=NARROW)
        assert count == sum(p.numel() for p in part.parameters())
    assert list(whole.state_dict()) == list(before)
    assert isinstance(whole(torch.zeros(1, 1, 32, 32)), tuple)


def test_depths_on_a_timm_encoder_end_at_full_size():
    whole = create_model("unetpp", patch_size=(64, 64), encoder="resnet10t", deep_supervision=True).eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(whole.at_depth(whole.depths[-1])(x), whole(x)[0])
        assert all(whole.at_depth(d)(x).shape == (1, 2, 64, 64) for d in whole.depths)


def test_what_cannot_be_cut():
    whole = create_model("unetpp", patch_size=(32, 32), deep_supervision=True, widths=NARROW)
    with pytest.raises(ModelError, match="depth=5: it can be cut to 1, 2, 3, 4 columns"):
        whole.at_depth(5)
    with pytest.raises(RecipeError, match=r"infer.depth=1: it can be cut to 4 columns \(without deep supervision"):
        pruned(create_model("unetpp", patch_size=(32, 32), widths=NARROW), 1)
    with pytest.raises(RecipeError, match="no columns to leave out, as unetpp has"):
        pruned(create_model("unet", patch_size=(32, 32), widths=(4, 8)), 1)
    with pytest.raises(RecipeError, match=r"infer.depth=all: one network predicts; give one of 1, 2, 3, 4"):
        pruned(whole, "all")


def test_the_command_compares_every_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TRAIN, f"output={tmp_path}", "name=run", "--json"]) == 0
    capsys.readouterr()
    score = ["evaluate", f"run={tmp_path / 'run'}", "split=val", "device=cpu"]
    scores = tmp_path / "scores"
    assert main([*score, "infer.depth=all", f"output={scores}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["depths"]
    assert [row["depth"] for row in rows] == [1, 2, 3]
    assert rows[-1]["speed_up"] == 1
    assert rows[-1]["dice_lost"] == 0
    assert rows[0]["ms_per_window"] < rows[-1]["ms_per_window"]
    assert rows[0]["parameters"] < rows[1]["parameters"] < rows[2]["parameters"]
    for depth in (1, 3):
        assert (scores / f"depth_{depth}" / "metrics.json").is_file()
    assert main([*score, "infer.depth=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dice"] == pytest.approx(rows[1]["dice"], abs=1e-4)
    # the whole network at its full depth is the network
    assert main([*score, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dice"] == pytest.approx(rows[2]["dice"], abs=1e-4)
    assert main([*score, "infer.depth=9"]) == 2
    assert "infer.depth=9: it can be cut to 1, 2, 3 columns" in capsys.readouterr().err
