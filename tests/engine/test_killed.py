"""Killed with SIGKILL anywhere and resumed, a run ends with the same weights, bit for bit, as one left alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed_training import MOMENTS, RECIPE, job
from tiny_task import build

from unetkit.checkpoint import load_checkpoint
from unetkit.engine.fit import fit
from unetkit.engine.log import read_log


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[tuple[str, int], Path]:
    """The folders that each of the MOMENTS left behind."""
    home = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killed_training.py")
    subprocess.run([sys.executable, script, home], check=True, timeout=300)
    return {moment: home / f"run{i}" for i, moment in enumerate(MOMENTS)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    fit(job(folder), build(RECIPE))
    return folder


def everything(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], dict]:
    found = load_checkpoint(folder, name, training=True)
    tensors = found.weights | {f"ema.{k}": v for k, v in found.ema.items()} | found.tensors
    progress = {k: v for k, v in found.state["progress"].items() if k not in ("seconds", "log_bytes")}
    return tensors, progress


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[0]} ({m[1]})")
def test_resumed_equals_undisturbed(killed, alone, moment):
    folder = killed[moment]
    fit(job(folder), build(RECIPE))
    for name in ("last", "best"):
        expected, numbers = everything(alone, name)
        found, same_numbers = everything(folder, name)
        assert same_numbers == numbers
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    steps = [r["step"] for r in read_log(folder / "log.jsonl") if "loss" in r]
    assert steps == sorted(set(steps))
    epochs = [(r["epoch"], r["epoch_loss"], r["val_dice"]) for r in read_log(folder / "log.jsonl") if "epoch_loss" in r]
    assert epochs == [
        (r["epoch"], r["epoch_loss"], r["val_dice"]) for r in read_log(alone / "log.jsonl") if "epoch_loss" in r
    ]
    assert not list(folder.glob(".*.tmp"))
