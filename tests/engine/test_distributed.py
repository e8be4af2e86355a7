"""Two processes with a batch of one each are one process with a batch of two; what breaks ends both, in one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import two_processes
from safetensors.torch import load_file

import unetkit
from unetkit.checkpoint import load_checkpoint
from unetkit.engine.log import read_log
from unetkit.engine.run_folder import RunFolder
from unetkit.engine.task import shared_out
from unetkit.engine.train import TrainResult
from unetkit.errors import CheckpointError, RecipeError
from unetkit.recipe import resolve


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """What two processes wrote after training each kind."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(two_processes.run, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", two_processes.KINDS)
def test_two_of_batch_one_are_one_of_batch_two(trained, kind):
    number = list(two_processes.KINDS).index(kind)
    expected = two_processes.train(kind)
    assert expected["norm"] > 0.05, "every step is clipped"
    one, two = (load_file(trained / f"{number}_{rank}.safetensors") for rank in (0, 1))
    assert one.keys() == expected.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    for name, value in expected.items():
        near = 1e-9 if kind != "bf16" else 1e-2
        torch.testing.assert_close(one[name], value, rtol=near, atol=near * float(value.abs().max()), msg=name)


def test_two_by_the_clock_go_by_that_of_the_first(trained):
    one, two = (load_file(trained / f"clock_{rank}.safetensors") for rank in (0, 1))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []  # rates and the end were the same
    records = read_log(trained / "clock" / "log.jsonl")
    assert 55 < records[-1]["seconds"] < 70
    assert records[-1]["step"] == one["step"] > 20


@pytest.mark.parametrize("kind", two_processes.SHARDED)
def test_shared_out_parameters_train_alike_and_through_a_checkpoint(trained, kind):
    number = two_processes.SHARDED.index(kind)
    expected = two_processes.train(kind)
    found = load_file(trained / f"sharded{number}_0.safetensors")
    assert found.keys() == expected.keys()
    # parts of gradients are summed in fp32
    near = 1e-3 if "adamw" in kind else 1e-6
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=near, atol=near * float(value.abs().max()), msg=name)


def test_an_error_on_one_process_is_raised_on_both(trained):
    one, two = (json.loads((trained / f"faults_{rank}.json").read_text()) for rank in (0, 1))
    assert one[:2] == two[:2] == ["DataError: case a: no label"] * 2
    assert one[2] == "ValueError: a bug\nof two lines"
    assert two[2].startswith("RecipeError: another process of this training failed (ValueError: a bug)")


def test_ctrl_c_on_one_process_stops_both_at_one_step_and_saves(trained):
    one, two = (json.loads((trained / f"ends_{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert one["alone"] == []
    assert one["cut"] == ["KeyboardInterrupt: "]
    step = load_checkpoint(trained / "cut", "last").state["progress"]["step"]
    assert 10 <= step < 21
    assert [record["step"] for record in read_log(trained / "cut" / "log.jsonl")][-1] == step


def test_a_loss_of_one_process_that_is_not_finite_stops_both(trained):
    found = json.loads((trained / "ends_0.json").read_text())["poisoned"]
    assert len(found) == 1
    assert re.match(r"RecipeError: step 9: the loss is (nan|inf) .*cases case9_0", found[0])
    assert load_checkpoint(trained / "poisoned", "last").state["progress"]["step"] == 8


WORDS = {
    "data.dataset": "shapes",
    "data.generator": "{size: [32, 32]}",
    "data.cases": 12,
    "model.name": "plain_unet",
    "plan.widths": "[4, 8]",
    "plan.strides": "[[1, 1], [2, 2]]",
    "data.patch_size": "[32,32]",
    "train.epochs": 3,
    "train.steps_per_epoch": 6,
    "train.batch_size": 1,
    "train.validate_every": 3,
    "train.checkpoint_steps": 4,
    "train.precision": "fp32",
    "train.device": "cpu",
    "train.workers": 0,
    "evaluate.distances": "false",
    "name": "run",
}


def words(output: Path, **changes: object) -> list[str]:
    return [f"{key}={value}" for key, value in (WORDS | {"output": output} | changes).items()]


def torchrun(*given: object) -> subprocess.Popen:
    """Start two processes with the command line as users do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "unetkit", "train"]
    return subprocess.Popen([*command, *map(str, given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> TrainResult:
    """The same training in one process, with the whole batch."""
    output = tmp_path_factory.mktemp("alone")
    return unetkit.train(resolve(words(output, **{"train.batch_size": 2})).recipe, progress=False)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A run of two processes, one of which was killed after the first checkpoint."""
    output = tmp_path_factory.mktemp("killed")
    launcher, checkpoint = torchrun(*words(output)), output / "run" / "last.safetensors"
    until = time.monotonic() + 240
    while not checkpoint.exists() and launcher.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1, err
    assert 0 < load_checkpoint(checkpoint).state["progress"]["step"] < 18
    return output / "run"


def assert_same_training(run: Path, other: Path) -> None:
    one, two = (load_checkpoint(folder, "last", training=True) for folder in (run, other))
    for name, value in (one.weights | one.tensors).items():
        torch.testing.assert_close((two.weights | two.tensors)[name], value, rtol=1e-4, atol=1e-5, msg=name)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="children of a process are looked up there"
)


@needs_proc
def test_torchrun_killed_and_resumed_ends_as_one_process_would(killed, alone, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    launcher = torchrun(f"resume={run}", "--json")
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, err
    # one document, from one process
    result = json.loads(out)
    assert_same_training(alone.run, run)
    assert result["dice"] == pytest.approx(alone.dice, abs=1e-3)
    assert err.count("epoch 3/3") == 1
    assert len(json.loads((run / "metrics.json").read_text())["cases"]) == len(
        json.loads((alone.run / "metrics.json").read_text())["cases"]
    )
    steps = [record["step"] for record in read_log(run / "log.jsonl") if "loss" in record]
    assert steps == sorted(set(steps))


@needs_proc
def test_another_number_of_processes_goes_on_with_the_same_batch(killed, alone, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    unetkit.train(resume=run, progress=False)
    assert_same_training(alone.run, run)


def test_a_batch_that_cannot_be_shared_out_is_refused(alone):
    recipe, _, plan, _ = RunFolder(alone.run).read()
    with pytest.raises(CheckpointError, match=r"batch of 1 x 2 samples cannot be shared by 3 processes; resume with"):
        shared_out(recipe, plan, alone.run, 3)


def test_ways_to_share_a_network_need_torchrun(tmp_path):
    for way in ("ddp", "fsdp"):
        recipe = resolve(words(tmp_path, **{"train.parallel": way})).recipe
        with pytest.raises(RecipeError, match=rf"train\.parallel={way} is for several processes; .*torchrun"):
            unetkit.train(recipe, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one(tmp_path):
    more = {"train.device": "cuda", "train.deterministic": "true"}
    launcher = torchrun(*words(tmp_path / "two", **more))
    _, err = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, err
    one = unetkit.train(resolve(words(tmp_path / "one", **more, **{"train.batch_size": 2})).recipe, progress=False)
    found, expected = (load_checkpoint(run, "last").weights for run in (tmp_path / "two" / "run", one.run))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3, msg=name)
