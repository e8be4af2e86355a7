"""The command line: answers, exit codes, JSON, and quickness without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unetkit.cli import VERBS, main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(("verb", "word"), [("predict", "overwrite"), ("evaluate", "split"), ("list", "licence")])
def test_help_of_a_verb_names_its_words(capsys: pytest.CaptureFixture[str], verb: str, word: str) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"\n  {word} " in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("trian",), "there is no verb 'trian' (did you mean 'train'?)"),
        (("show", "model=unett"), "there is no model 'unett' (did you mean 'unet'?)"),
        (("show", "dataset=phantom2"), "no such data set (did you mean 'phantom2d'?)"),
        (("show", "run=nowhere"), "this is no run folder of unetkit"),
        (("list", "modles"), "choose models, recipes, datasets or benches (did you mean 'models'?)"),
        (("list", "models", "dims=4"), "dims=4: expected one of 2, 3"),
        (("list", "models", "params=30M"), "params: 30M is no range; write LOW..HIGH, ..HIGH or LOW.."),
        (("list", "models", "year=soon"), "year: soon is no range"),
        (("list", "models", "gflops=50..5"), "gflops: nothing lies between 50 and 5"),
        (("train", "train.epoch=3"), "unknown key 'train.epoch' (did you mean 'train.epochs'?)"),
        (("train", "--train.epochs=3"), "write train.epochs=3"),
        (("predict", "run=x"), "output is missing"),
        (("predict", "run=x", "output=o"), "give input=FILE_OR_FOLDER"),
        (("evaluate", "predictions=a"), "predictions need references"),
        (("evaluate", "predictions=a", "references=b", "data.root=c"), "one of the two"),
        (("evaluate", "predictions=a", "references=b", "split=val"), "split is not used with references="),
        (("evaluate", "predictions=a", "references=b", "infer.overlap=0.1"), "infer is not used with predictions="),
        (("evaluate", "run=a", "references=b"), "references is not used with run="),
        (("predict", "run=x", "input=i", "output=o", "data.root=c"), "data is not used with input="),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert line in err
    assert "Traceback" not in err
    assert all(each.startswith("unetkit: ") for each in err.strip().splitlines())


def test_all_faults_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "train.epoch=3", "seed=x", "--json")
    document = json.loads(out.strip().splitlines()[-1])
    assert code == 2
    assert (document["kind"], len(document["faults"])) == ("RecipeError", 2)
    assert len(err.strip().splitlines()) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("list", "models"),
        ("list", "recipes"),
        ("list", "datasets"),
        ("show", "recipe=quickstart"),
        ("show", "model=unet"),
    ],
)
def test_json_and_text_of_quick_verbs(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, text, _ = run(capsys, *words)
    assert (code, len(text) > 100) == (0, True)
    code, out, err = run(capsys, *words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_filters_of_list(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list", "models", "family=transformer", "dims=3", "--json")
    names = [m["name"] for m in json.loads(out)["models"]]
    assert "unetr" in names
    assert "transunet" not in names


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        (["year=2015"], "unet", "unetpp"),
        (["year=2016.."], "unetpp", "unet"),
        (["year=..2017"], "unet", "unetpp"),
        (["params=..10M"], "unetpp", "unet"),
        (["params=3.1e7..32M", "dims=2"], "unet", "unetpp"),
        (["gflops=..10"], "unetpp", "unet"),
        (["licence=GPL*"], "unet", "unetpp"),
        (["licence=apache-2.0"], "plain_unet", "unet"),
    ],
)
def test_ranges_of_list(capsys: pytest.CaptureFixture[str], words: list[str], inside: str, outside: str) -> None:
    _, out, _ = run(capsys, "list", *words, "--json")
    names = [m["name"] for m in json.loads(out)["models"]]
    assert inside in names
    assert outside not in names


def test_card_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = run(capsys, "show", "model=h2former")
    assert "to 1 class, fp32" in text
    _, text, _ = run(capsys, "show", "model=unet")
    assert "https://arxiv.org/abs/1505.04597" in text
    assert "31,037,698 parameters, 96.34 GFLOPs, 343.2 MB of maps kept in training at 3 x 256 x 256" in text
    assert "sides must be at least 16" in text
    assert "skips: at every level" in text
    assert "variant=milesial" in text
    _, out, _ = run(capsys, "show", "model=swin_unetr", "--json")
    card = json.loads(out)
    assert (card["gflops"]["3D"], card["params"]["2D"]) == (637.0, 25138568)
    assert card["paper"] == "https://arxiv.org/abs/2201.01266"


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "list models params=..30M",
        "list recipes",
        "show recipe=synapse_swin",
        "show model=unet",
        "train train.epoch=3",
    ],
)
def test_quick_answers_leave_torch_alone(words: str) -> None:
    code = (
        "import sys; from unetkit.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'numpy', 'monai', 'nibabel') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error() -> None:
    out = subprocess.run(
        f"{sys.executable} -m unetkit show | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("description = ")
    assert out.stderr == ""


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from unetkit.cli import verbs

    def stop(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "run_list", stop)
    assert main(["list"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert main(["list", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["kind"] == "KeyboardInterrupt"


def test_a_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "inspect", f"data.root={tmp_path}")
    assert code == 2
    assert str(tmp_path) in err
    assert len(err.strip().splitlines()) == 1
