"""`unetkit plan` on small volumes: what it prints, and the files it writes."""

import json

import nibabel as nib
import numpy as np
import pytest

from unetkit.cli import main
from unetkit.plan import Fingerprint, Plan


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Ten labelled volumes, as the words of a command line; class 2 stands in a single one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for n in range(10):
        image, label = rng.integers(0, 99, (24, 20, 16)).astype(np.int16), np.zeros((24, 20, 16), np.uint8)
        label[3:8, 3:8, 3:8], label[9, 9, 9] = 1, 2 * (n == 0)
        for folder, array in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), root / folder / f"c{n}.nii.gz")
    return [
        "plan",
        f"data.root={root}",
        "data.classes={organ: 1, lesion: 2}",
        "data.split.kind=kfold",
        "plan.planner=nnunet",
    ]


def test_files_of_one_configuration(words, tmp_path, capsys):
    assert main([*words, f"output={tmp_path / 'out'}", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    names = ("fingerprint.json", "fingerprint.html", "plan.json", "nnUNetResEncUNetMPlans.json")
    written = {str(tmp_path / "out" / name) for name in names}
    assert {str(path) for path in (tmp_path / "out").iterdir()} == written
    assert set(document.pop("written")) == written
    plan = Plan.from_json(json.loads((tmp_path / "out" / "plan.json").read_text()))
    assert json.loads(json.dumps(plan.to_json())) == document
    found = Fingerprint.from_json(json.loads((tmp_path / "out" / "fingerprint.json").read_text()))
    assert found.labels == plan.labels
    assert plan.reasons["spacing"] in (tmp_path / "out" / "fingerprint.html").read_text()
    assert all(line.startswith("unetkit: note: ") for line in err.splitlines())
    assert "class 'lesion' is in" in err


def test_several_configurations_have_a_file_each(words, tmp_path, capsys):
    assert main([*words, "plan.configuration=[2d, 3d_fullres]", f"output={tmp_path / 'out'}"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("configuration  ") == 2
    for name in ("2d", "3d_fullres"):
        plan = Plan.from_json(json.loads((tmp_path / "out" / f"plan_{name}.json").read_text()))
        assert plan.configuration == name


def test_without_output_nothing_is_written(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*words, "explain=true"]) == 0
    assert "patch_size: " in capsys.readouterr().out
    assert not list((tmp_path / "here").iterdir())


def test_an_output_that_cannot_be_written_is_told_before_any_work(words, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*words, f"output={tmp_path / 'file' / 'out'}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unetkit: output=")
    assert "cannot be written" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "home").exists()
