"""Faults of the user through the command line: one line each, exit code 2, and a disk that is as it was before."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from unetkit.checkpoint import load_checkpoint
from unetkit.cli import main
from unetkit.data.volumes import read_volume

SMALL = (
    "model.name=unet",
    "model.widths=[4,8]",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "train.batch_size=2",
    "train.device=cpu",
    "train.workers=0",
)
CASES = range(4)
SHIFT = 7 * np.outer([1, 0, 0, 0], [0, 0, 0, 1])
VALIDATES = 2
"""The case of four that the default seed validates on."""


def pictures(root: Path, size: int = 32) -> Path:
    draw = np.random.default_rng(0)
    for side in ("images", "masks"):
        (root / side).mkdir(parents=True)
    for number in CASES:
        mask = np.zeros((size, size), np.uint8)
        mask[4:9, 3 : 9 + number % 2] = 1
        Image.fromarray((60 + 120 * mask + draw.integers(0, 40, mask.shape)).astype(np.uint8)).save(
            root / "images" / f"c{number}.png"
        )
        Image.fromarray(mask).save(root / "masks" / f"c{number}.png")
    return root


def volumes(root: Path) -> Path:
    draw = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for side in ("images", "labels"):
        (root / side).mkdir(parents=True)
    for number in CASES:
        label = np.zeros((12, 12, 8), np.uint8)
        label[3:8, 3:8, 2:6] = 1
        image = (100 * label + draw.normal(0, 15, label.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, affine), root / "images" / f"c{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), root / "labels" / f"c{number}.nii.gz")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures`, and `runs/done`, trained on them by the command line."""
    place = tmp_path_factory.mktemp("place")
    root = pictures(place / "pictures")
    assert main(["train", f"data.root={root}", f"output={place / 'runs'}", "name=done", *SMALL, "--json"]) == 0
    return place


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their content, folders with None."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., None]:
    """Return a function (words, parts of the line): the command refuses in that line, and writes nothing."""

    def check(words: list[str], *parts: str) -> None:
        capsys.readouterr()
        before = tree(tmp_path)
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith("unetkit: ")
        assert [part for part in parts if part not in err] == [], err
        assert out.count("\n") == 1
        assert json.loads(out)["faults"] == [err.removeprefix("unetkit: ").strip()]
        assert tree(tmp_path) == before

    return check


def train(root: Path, output: Path, *more: str) -> list[str]:
    return ["train", f"data.root={root}", f"output={output}", *SMALL, *more]


def damage_volume(part: str, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Any:
    def damage(root: Path, number: int) -> None:
        path = volumes(root) / part / f"c{number}.nii.gz"
        image = nib.Nifti1Image.from_filename(path)
        nib.save(nib.Nifti1Image(*change(np.asarray(image.dataobj).copy(), image.affine.copy())), path)

    return damage


def cut(part: str, share: float) -> Any:
    def damage(root: Path, number: int) -> None:
        path = volumes(root) / part / f"c{number}.nii.gz"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def first_voxel(value: float) -> Any:
    def change(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data[0, 0, 0] = value
        return data, affine

    return change


@pytest.mark.parametrize("number", [0, VALIDATES])
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (damage_volume("images", first_voxel(np.nan)), "1 NaN or infinite voxels"),
        (damage_volume("images", first_voxel(-np.inf)), "1 NaN or infinite voxels"),
        (damage_volume("labels", lambda data, affine: (data[1:], affine)), "shape 11 x 12 x 8 against 12 x 12 x 8"),
        (damage_volume("labels", lambda data, affine: (data, affine + SHIFT)), "origin (7, 0, 0) against (0, 0, 0) mm"),
        (damage_volume("labels", lambda data, affine: (data, affine @ np.diag([-1, 1, 1, 1]))), "different grids"),
        (damage_volume("labels", first_voxel(9)), "label values 9 (1 voxels) belong to no class"),
        (cut("images", 0.5), "cut off"),
        (cut("labels", 0.5), "cut off"),
        (cut("images", 0), "is empty (0 bytes)"),
    ],
)
def test_a_case_that_cannot_be_used(
    refused: Callable[..., None], tmp_path: Path, damage: Any, line: str, number: int
) -> None:
    damage(tmp_path / "data", number)
    output = tmp_path / "made" / "for" / "it"
    refused(train(tmp_path / "data", output, "data.classes={organ: 1}"), f"c{number}", line)


def test_missing_files(refused: Callable[..., None], tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    (tmp_path / "none").mkdir()
    refused(train(tmp_path / "dato", tmp_path / "runs"), "no such folder (did you mean 'data'?)")
    refused(train(tmp_path / "none", tmp_path / "runs"), "zero cases", "accepted are")
    refused(["train", *SMALL], "set data.root=FOLDER, or try data.dataset=phantom2d")
    refused(train(Path("~nobody-here/data"), tmp_path / "runs"), "no such folder")
    for number in (1, 2, 3):
        (root / "masks" / f"c{number}.png").unlink()
    refused(train(root, tmp_path / "runs"), "only one labelled case 'c0'", "data.split.val_fraction=0")


def test_no_foreground(refused: Callable[..., None], tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    for number in CASES:
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "masks" / f"c{number}.png")
        if number == 0:  # one such case is no fault
            assert main([*train(root, tmp_path / "one"), "--json"]) == 0
    refused(train(root, tmp_path / "runs"), "nothing but 0", "check the folder of labels")
    refused(train(root, tmp_path / "runs", "data.classes={a: 1}"), "none of the 3 training cases has a labelled voxel")


def test_images_smaller_than_the_patch_are_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "data", size=12)
    assert main([*train(root, tmp_path / "runs", "data.patch_size=[32,32]", "name=x"), "--json"]) == 0
    words = [f"run={tmp_path / 'runs' / 'x'}", f"input={root / 'images'}", f"output={tmp_path / 'out'}"]
    assert main(["predict", *words]) == 0
    assert read_volume(tmp_path / "out" / "c0.png").shape == (12, 12)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train.epoch=3"], ["unknown key 'train.epoch' (did you mean 'train.epochs'?)"]),
        (["train.max_minutes=long"], ["train.max_minutes=long: expected a number"]),
        (["train.optimizer.lr=.inf"], ["train.optimizer.lr=inf: expected a finite number"]),
        (["data.dataset=phantom2d"], ["data: root and dataset=phantom2d contradict each other"]),
        (["data.split.kind=random", "data.split.train=[c0]"], ["data.split: kind random contradicts lists"]),
        (["plan.widths=[4]"], ["plan.widths and model.widths are both given"]),
        (["data.patch_size=[8,8,8]"], ["data.patch_size [8, 8, 8] is for volumes", "give two numbers"]),
        (["train.augment.left_right=[[a,b]]"], ["no class is called 'a'; the classes are foreground"]),
        (["name=.."], ["name=..: give a plain folder name"]),
        (["resume=x"], ["resume goes on with the run's own recipe"]),
        (["recipe=latin.yaml"], ["latin.yaml cannot be read", "UTF-8"]),
        (["recipe=list.yaml"], ["expected a mapping of sections"]),
    ],
)
def test_recipes_that_cannot_be_followed(
    refused: Callable[..., None],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    parts: list[str],
) -> None:
    (tmp_path / "latin.yaml").write_bytes("description: für".encode("latin1"))
    (tmp_path / "list.yaml").write_text("- train")
    (tmp_path / "empty").mkdir()  # there before, so it stays
    monkeypatch.chdir(tmp_path)
    refused(train(place / "pictures", tmp_path / "empty", *words), *parts)


def test_outputs_that_cannot_be_written(refused: Callable[..., None], place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    below, run, data = tmp_path / "file" / "out", place / "runs" / "done", place / "pictures"
    refused(train(data, below), "output: cannot write", "choose another folder with output=FOLDER")
    words = ["predict", f"run={run}", f"input={data / 'images'}"]
    refused([*words, f"output={below}"], f"output={below}: cannot be written (Not a directory)")
    refused([*words, f"output={tmp_path / 'file'}"], "cannot be written (File exists)")
    both = [f"predictions={data / 'masks'}", f"references={data / 'masks'}"]
    refused(["evaluate", *both, f"output={below}"], f"output={below}: cannot be written", "choose another folder")


class _Code:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_checkpoints_that_cannot_be_used(refused: Callable[..., None], place: Path, tmp_path: Path) -> None:
    whole = (place / "runs" / "done" / "last.safetensors").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "start": whole[:20], "empty": b""}.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "disguised.safetensors").write_bytes(pickle.dumps(_Code(tmp_path / "run")))
    torch.save({"weights": torch.zeros(2), "more": _Code(tmp_path / "run")}, tmp_path / "model.pt")
    data = place / "pictures"
    for name, line in {
        "cut.safetensors": "cut off or damaged",
        "start.safetensors": "cut off or damaged",
        "empty.safetensors": "the file is empty",
        "disguised.safetensors": "this is a pickle (.pt, .pth), which can run code when loaded, so it was not opened",
        "model.pt": "this is a pickle",
        "absent": "no such file or folder; give a run folder or a .safetensors file",
    }.items():
        path = tmp_path / name
        refused(["predict", f"run={path}", f"input={data / 'images'}", f"output={tmp_path / 'out'}"], str(path), line)
        refused(["evaluate", f"run={path}", "split=val"], str(path), line)
        refused(train(data, tmp_path / "runs", f"train.init={path}"), str(path), line)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model(refused: Callable[..., None], place: Path, tmp_path: Path) -> None:
    root = volumes(tmp_path / "volumes")
    assert main([*train(root, tmp_path / "runs", "name=other"), "--json"]) == 0
    other = tmp_path / "runs" / "other"
    refused(train(place / "pictures", tmp_path / "new", f"train.init={other}"), "start from a run of the same model")
    mixed = tmp_path / "mixed"
    shutil.copytree(place / "runs" / "done", mixed)
    shutil.copy(other / "last.safetensors", mixed)
    refused(["train", f"resume={mixed}"], "the weights are of another model")


@pytest.mark.parametrize("name", ["recipe.yaml", "plan.json", "split.json", "origins.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_runs_with_a_damaged_file(
    refused: Callable[..., None], place: Path, tmp_path: Path, name: str, content: str
) -> None:
    shutil.copytree(place / "runs" / "done", tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    refused(["train", f"resume={tmp_path / 'run'}"], f"{tmp_path / 'run'}: a damaged run")


def test_resume_is_given_one_run(refused: Callable[..., None], tmp_path: Path) -> None:
    refused(["train", f"resume={tmp_path}"], "not a run that can be resumed (no recipe.yaml)")
    refused(["train", "resume=a", "resume=b"], "give one run folder")
    refused(["train", "resume="], "give one run folder")


def test_a_finished_run_resumed_stays_as_it_was(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "runs" / "done"
    capsys.readouterr()
    names, before = set(tree(run)), load_checkpoint(run, "last", training=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert main(["train", f"resume={run}", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert {"run", "report", "dice", "per_class", "seconds"} <= set(json.loads(out))
    after = load_checkpoint(run, "last", training=True)
    assert set(tree(run)) == names
    assert json.loads((run / "metrics.json").read_text())["summary"] == metrics["summary"]
    assert all(torch.equal(before.weights[k], after.weights[k]) for k in before.weights)
    assert all(torch.equal(before.tensors[k], after.tensors[k]) for k in before.tensors)


def test_predict_goes_on_and_names_what_failed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "in"
    shutil.copytree(place / "pictures" / "images", images)
    (images / "c1.png").write_bytes((images / "c1.png").read_bytes()[:60])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), images / "c9.nii.gz")
    words = ["predict", f"run={place / 'runs' / 'done'}", f"input={images}", f"output={tmp_path / 'out'}", "--json"]
    for done, skipped in ((3, 0), (0, 3)):
        capsys.readouterr()
        assert main(words) == 2
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert [len(found[key]) for key in ("done", "skipped", "failed")] == [done, skipped, 2]
        assert [line.split(": ")[:2] for line in err.splitlines()] == [["unetkit", "case c1"], ["unetkit", "case c9"]]
        assert sorted(tree(tmp_path / "out")) == ["c0.png", "c2.png", "c3.png"]
    shutil.rmtree(tmp_path / "out")
    for number in (0, 2, 3):
        (images / f"c{number}.png").unlink()
    assert main(words) == 2
    assert not (tmp_path / "out").exists()


def test_evaluate_goes_on_and_names_what_failed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "other"
    shutil.copytree(place / "pictures", root)
    for path in [*root.glob("*/*.png")]:
        path.rename(path.with_name(f"new_{path.name}"))
    words = ["evaluate", f"run={place / 'runs' / 'done'}", f"data.root={root}", "split=test", "--json"]
    assert main(words) == 0
    (root / "images" / "new_c1.png").write_bytes(b"")
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert list(json.loads(out)["failures"]) == ["new_c1"]
    assert err.count("\n") == 1
    assert err.startswith("unetkit: case new_c1: ")


def test_a_full_disk_while_a_checkpoint_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room = (place / "runs" / "done" / "best.safetensors").stat().st_size
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room - 1000, limits[1]))  # no file may grow larger
    capsys.readouterr()
    try:
        code = main([*train(place / "pictures", tmp_path, "name=full"), "--json"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    out, err = capsys.readouterr()
    assert (code, json.loads(out)["kind"]) == (2, "CheckpointError")
    assert "cannot write" in err.splitlines()[-1]
    kept = ["fingerprint.json", "log.jsonl", "origins.json", "plan.json", "recipe.yaml", "split.json"]
    assert sorted(tree(tmp_path / "full")) == kept
    assert main(["train", f"resume={tmp_path / 'full'}"]) == 0


def interrupted(words: list[str], ready: Callable[[], bool]) -> tuple[int, str]:
    """Run a command, press Ctrl-C as soon as it is ready, and return exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unetkit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_ctrl_c_while_training_is_resumed(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "cut"
    log = run / "log.jsonl"
    more = ("name=cut", "train.epochs=100", "train.validate_every=100", "train.select=last")
    words = [*train(place / "pictures", tmp_path), *more]
    words.remove("train.epochs=1")
    code, err = interrupted(words, lambda: log.exists() and log.stat().st_size > 0)
    assert (code, err.splitlines()[-1]) == (130, "unetkit: stopped")
    assert "Traceback" not in err
    assert not [name for name in tree(run) if name.endswith(".tmp")]
    assert 0 < load_checkpoint(run, "last").state["progress"]["step"] < 200
    assert main(["train", f"resume={run}", "--json"]) == 0
    assert load_checkpoint(run, "last").state["progress"]["step"] == 200


def test_ctrl_c_while_predicting_leaves_whole_files(place: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    content = (place / "pictures" / "images" / "c0.png").read_bytes()
    for number in range(1000):
        (images / f"{number:04d}.png").write_bytes(content)
    words = ["predict", f"run={place / 'runs' / 'done'}", f"input={images}", f"output={out}", "device=cpu"]
    code, err = interrupted(words, lambda: (out / "0000.png").exists())
    assert (code, err) == (130, "unetkit: stopped\n")
    done = sorted(path.name for path in out.iterdir())
    assert done == [f"{number:04d}.png" for number in range(len(done))]
    assert 0 < len(done) < 1000
    assert read_volume(out / done[-1], label=True).shape == (32, 32)
