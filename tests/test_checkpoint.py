"""Checkpoints come back bit for bit, replace each other atomically, and refuse what they are not."""

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from unetkit.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    pack_optimizer,
    read_recipe,
    save_checkpoint,
    transfer_weights,
    unpack_optimizer,
    versions,
)
from unetkit.errors import CheckpointError
from unetkit.plan import Normalization, Plan
from unetkit.recipe.schema import Recipe
from unetkit.types import Labels

PLAN = Plan(
    patch_size=(8, 16, 16),
    batch_size=2,
    channels=("CT",),
    labels=Labels(("liver", "tumour"), ((1, 2), (2,)), regions=True),
    normalization=(Normalization("ct", -100.0, 200.5, 33.1, 0.1 + 0.2),),
    spacing=(2.0, 0.7, 0.7),
    transpose=(2, 0, 1),
    reasons={"spacing": "median"},
)
RECIPE = Recipe.model_validate_json(
    json.dumps({"model": {"name": "unet", "widths": [4, 8]}, "data": {"regions": True}, "train": {"epochs": 3}})
)


def network(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def checkpoint(**changes) -> Checkpoint:
    parts = {
        "weights": network().state_dict(),
        "recipe": RECIPE,
        "plan": PLAN,
        "versions": versions(),
        "state": {"step": 7, "best": 0.1 + 0.2, "nothing": None, "worst": float("-inf")},
    }
    return Checkpoint(**parts | changes)


def test_everything_comes_back(tmp_path):
    ema = {"a.b": torch.rand(3, dtype=torch.float64), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
    tensors = {"rng.torch": torch.get_rng_state(), "optim.0.step": torch.tensor(3.0)}
    saved = checkpoint(ema=ema, tensors=tensors)
    got = load_checkpoint(save_checkpoint(tmp_path / "last.safetensors", saved), training=True)
    assert (got.recipe, got.plan, got.versions, got.state) == (RECIPE, PLAN, saved.versions, saved.state)
    for mine, theirs in ((saved.weights, got.weights), (ema, got.ema), (tensors, got.tensors)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine)
    assert got.best_weights is got.ema
    assert load_checkpoint(tmp_path / "last.safetensors").tensors == {}


def test_tensors_that_share_memory_or_are_strided_are_written_in_full(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "x.safetensors", checkpoint(weights={"a": base, "b": base[0], "c": base.T}))
    got = load_checkpoint(tmp_path / "x.safetensors").weights
    assert torch.equal(got["b"], base[0])
    assert torch.equal(got["c"], base.T)


def test_run_folder_prefers_best_and_takes_what_is_asked_for(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", checkpoint(state={"which": "last"}))
    assert load_checkpoint(tmp_path).state == {"which": "last"}
    save_checkpoint(tmp_path / "best.safetensors", checkpoint(state={"which": "best"}))
    assert load_checkpoint(tmp_path).state == {"which": "best"}
    assert load_checkpoint(tmp_path, "last").state == {"which": "last"}
    assert find_checkpoint(tmp_path / "last.safetensors").name == "last.safetensors"


def test_run_folder_gives_what_its_recipe_selects(tmp_path):
    chosen = RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update={"select": "last"})})
    for name in ("best", "last"):
        save_checkpoint(tmp_path / f"{name}.safetensors", checkpoint(recipe=chosen, state={"which": name}))
    assert load_checkpoint(tmp_path).state == {"which": "last"}
    assert load_checkpoint(tmp_path, "best").state == {"which": "best"}
    assert load_checkpoint(tmp_path / "best.safetensors").state == {"which": "best"}
    assert find_checkpoint(tmp_path).name == "last.safetensors"
    (tmp_path / "last.safetensors").unlink()
    assert load_checkpoint(tmp_path).state == {"which": "best"}


def test_the_recipe_is_read_without_the_weights(tmp_path):
    broken = network().state_dict() | {"0.weight": torch.full((1,), float("nan"))}
    save_checkpoint(tmp_path / "last.safetensors", checkpoint(weights=broken))
    assert read_recipe(tmp_path) == RECIPE
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_recipe(tmp_path / "absent")


@pytest.mark.parametrize("which", [None, "best"])
def test_not_a_run(tmp_path, which):
    with pytest.raises(CheckpointError, match=r"not a run folder.*best\.safetensors"):
        load_checkpoint(tmp_path, which)
    with pytest.raises(CheckpointError, match="no such file or folder; give a run folder"):
        load_checkpoint(tmp_path / "absent", which)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path, keep):
    path = save_checkpoint(tmp_path / "x.safetensors", checkpoint())
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"cut off or damaged|is empty") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda x, f: f.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"])
def test_a_pickle_is_refused_and_not_run(tmp_path, name, write):
    write(Trap(tmp_path / "sprung"), tmp_path / name)
    with pytest.raises(CheckpointError, match="this is a pickle"):
        load_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    path, first = tmp_path / "last.safetensors", b""
    for filling in range(0, 2048, 8):  # headers are padded to multiples of 8 bytes
        save_checkpoint(path, checkpoint(state={"filling": "x" * filling}))
        first = path.read_bytes()[:1]
        if first == b"\x80":
            break
    assert first == b"\x80"
    assert load_checkpoint(path).state["filling"] == "x" * filling
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        load_checkpoint(path)


def test_other_safetensors_files_and_later_formats_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of unetkit"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "later.safetensors", {"unetkit": json.dumps({"version": 99})})
    with pytest.raises(CheckpointError, match="format 99, this unetkit reads up to 1; update"):
        load_checkpoint(tmp_path / "later.safetensors")


def test_weights_that_are_not_finite(tmp_path):
    weights = network().state_dict()
    weights["0.weight"][0] = float("nan")
    save_checkpoint(tmp_path / "x.safetensors", checkpoint(weights=weights))
    with pytest.raises(CheckpointError, match=r"1 of 9 weight tensors hold NaN or infinity \(0\.weight\)"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_weights_of_another_model_are_named():
    weights = network(5).state_dict()
    weights["head.bias"] = weights.pop("2.bias")
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(3), weights, "run")
    assert str(caught.value) == (
        "run: the weights are of another model: 1 missing (2.bias), 1 unexpected (head.bias), 7 of another shape "
        "(0.weight [5, 1, 3, 3] instead of [3, 1, 3, 3], 0.bias [5] instead of [3], "
        "1.weight [5] instead of [3], ...)"
    )


def test_transfer_keeps_heads_that_differ_and_refuses_strangers():
    old, new = network(), network()
    new[2] = nn.Conv2d(3, 7, 1)
    assert transfer_weights(new, old.state_dict()) == ["2.bias", "2.weight"]
    assert torch.equal(new[0].weight, old[0].weight)
    with pytest.raises(CheckpointError, match="only 2 of the network's 9 tensors"):
        transfer_weights(network(9), network(3).state_dict())


def test_failed_writes_leave_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "last.safetensors", checkpoint())
    before = path.read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="the disk is full; free some space"):
        save_checkpoint(path, checkpoint(state={"step": 8}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_a_write_that_stops_in_the_middle(tmp_path):
    """The kernel refuses bytes past a limit, as it does on a full disk."""
    path = save_checkpoint(tmp_path / "last.safetensors", checkpoint())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        with pytest.raises(CheckpointError, match="cannot write"):
            save_checkpoint(path, checkpoint(tensors={"optim.0.x": torch.zeros(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_killed_while_writing_leaves_a_file_that_loads(tmp_path):
    """SIGKILL when the new content is written but not yet in place."""
    path = save_checkpoint(tmp_path / "last.safetensors", checkpoint())
    code = (
        "import os, signal, sys; from unetkit.checkpoint import load_checkpoint, save_checkpoint;"
        "c = load_checkpoint(sys.argv[1]); os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        "c.state['step'] = 99; save_checkpoint(sys.argv[1], c)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert load_checkpoint(path).state["step"] == 7
    save_checkpoint(path, checkpoint(state={"step": 8}))
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*No such file or directory"):
        save_checkpoint(tmp_path / "absent" / "x.safetensors", checkpoint())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.95)),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        image = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_goes_on_bit_for_bit(tmp_path, name):
    whole, first, second = network(), network(), network(3)
    train(whole, OPTIMIZERS[name](whole.parameters()), range(6))
    optimizer = OPTIMIZERS[name](first.parameters())
    train(first, optimizer, range(3))
    tensors, rest = pack_optimizer(optimizer)
    saved = checkpoint(weights=first.state_dict(), tensors=tensors, state={"optimizer": rest})
    got = load_checkpoint(save_checkpoint(tmp_path / "x.safetensors", saved), training=True)
    load_weights(second, got.weights)
    again = OPTIMIZERS[name](second.parameters())
    unpack_optimizer(again, got.tensors, got.state["optimizer"])
    train(second, again, range(3, 6))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_state_of_another_optimizer_is_refused():
    model = network()
    tensors, rest = pack_optimizer(OPTIMIZERS["adamw"](model.parameters()))
    with pytest.raises(CheckpointError, match="another optimiser or network"):
        unpack_optimizer(OPTIMIZERS["sgd"](model.parameters()), tensors, rest)
