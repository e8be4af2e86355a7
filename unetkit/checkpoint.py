"""One file that holds a trained network and all that is needed to use it or to go on training.

A checkpoint is a safetensors file: tensors under `model.`, `ema.`, `optim.` and `rng.`, and in its header
JSON with recipe, plan, versions and progress. Nothing in it can run code. Pickles are refused unread.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unetkit.errors import CheckpointError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

FORMAT = 1
"""Version of the file layout; a file with a higher one was written by a later unetkit."""
NAMES = ("best", "last")
_KINDS = ("model", "ema", "optim", "rng")
_PICKLES = (b"PK\x03\x04", b"\x80")  # zip archive of torch.save; pickle protocol 2 and up
# Names listed in a message that must stay one line.
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights with the recipe and plan they were trained by.

    `versions` are those of the libraries that trained it; `state` is JSON-able progress (step, epoch, best score,
    optimiser numbers). `ema` are averaged weights, empty if none were kept; `tensors` is what only
    training needs, under names that start with `optim.` or `rng.`.
    """

    weights: dict[str, Tensor]
    recipe: Recipe
    plan: Plan
    versions: dict[str, str]
    state: dict[str, Any]
    ema: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_weights(self) -> dict[str, Tensor]:
        """The averaged weights where there are any, else the weights; those to predict with."""
        return self.ema or self.weights


def versions() -> dict[str, str]:
    """Return the versions of python and of the libraries that shape results."""
    found = {"python": platform.python_version()}
    for name in ("unetkit", "torch", "numpy", "monai", "timm", "scikit-image", "scipy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint so that at any moment the file is either the old one or the new one, and return its path.

    Raises CheckpointError if it cannot be written (full disk, no permission); the old file is then untouched
    and nothing else is left behind.
    """
    path = Path(path)
    # The kind in front keeps averaged weights apart from trained ones, which have the same names.
    tensors = {f"model.{k}": v for k, v in checkpoint.weights.items()}
    tensors |= {f"ema.{k}": v for k, v in checkpoint.ema.items()} | checkpoint.tensors
    header = {
        "format": "pt",  # what other readers of safetensors files look for
        "unetkit": json.dumps(_header(checkpoint)),
    }
    with _replacing(path) as temporary:
        save_file(_separate(tensors), temporary, metadata=header)
    return path


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    task = checkpoint.plan.task
    return {
        "version": FORMAT,
        # Not read back, as recipe and plan say the same: for other programs that list checkpoints.
        "model": {
            "name": checkpoint.recipe.model.name,
            "in_channels": task.in_channels,
            "num_classes": task.num_classes,
            "patch_size": list(task.patch_size),
        },
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "plan": checkpoint.plan.to_json(),
        "versions": checkpoint.versions,
        "state": checkpoint.state,
    }


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, contiguous, and copy those that share memory, which the format cannot say."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # The storage, not the tensor: a slice may begin elsewhere in the same memory.
        where = flat.untyped_storage().data_ptr()
        out[name] = flat.clone() if where in seen else flat
        seen.add(where)
    return out


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary file beside `path`; on success it is on the disk and becomes `path`, else it is removed."""
    # a fixed name: what a killed process left behind is overwritten by the next write
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        # In this order: after a power cut a name must not point at content that never reached the disk, and the
        # new name itself is only safe once the folder's entries are.
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {_cause(error)}; the file was left as it was") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF)):  # folders cannot be synced everywhere
            raise
    finally:
        os.close(handle)


def _cause(error: Exception) -> str:
    text = str(error)
    # safetensors writes in Rust, whose errors carry the number in their text alone
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in text:
        return "the disk is full; free some space or choose another output folder"
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else text).splitlines()[0]


def find_checkpoint(path: Path | str, which: str | None = None) -> Path:
    """Return the checkpoint file of a run folder, or the file itself.

    `which` is "best" or "last" of a run folder; None takes the one that the run's recipe selects.
    Raises CheckpointError if there is no such file, or the folder is not a run.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder; give a run folder or a .safetensors file")
    wanted = [path / f"{name}.safetensors" for name in ((which,) if which else NAMES)]
    there = [file for file in wanted if file.is_file()]
    if not there:
        names = " or ".join(file.name for file in wanted)
        raise CheckpointError(f"{path}: not a run folder, or training has not saved yet: it holds no {names}")
    # Only where there is a choice does the recipe decide: a run that was stopped early may have one file alone.
    return there[0] if len(there) == 1 else path / f"{read_recipe(there[0]).train.select}.safetensors"


def read_recipe(path: Path | str) -> Recipe:
    """Return the recipe of a checkpoint file or run folder from the file's header alone; no tensor is read.

    Raises CheckpointError as `load_checkpoint` does.
    """
    recipe: Recipe = _read(find_checkpoint(path), ())[0]["recipe"]
    return recipe


def read_state(path: Path | str) -> dict[str, Any]:
    """Return the progress in a checkpoint file's header; no tensor is read. Raises CheckpointError."""
    state: dict[str, Any] = _read(Path(path), ())[0]["state"]
    return state


def load_checkpoint(path: Path | str, which: str | None = None, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint file, or the one of a run folder that `find_checkpoint` finds.

    With `training` the tensors that only training needs come along.
    Raises CheckpointError if it is missing, cut off, a pickle, not of unetkit, or holds weights that are not finite.
    """
    path = find_checkpoint(path, which)
    header, groups = _read(path, _KINDS if training else ("model", "ema"))
    _refuse_nonfinite(path, groups["model"] | {f"ema.{k}": v for k, v in groups["ema"].items()})
    return Checkpoint(
        weights=groups["model"],
        recipe=header["recipe"],
        plan=header["plan"],
        versions=header["versions"],
        state=header["state"],
        ema=groups["ema"],
        tensors={f"{kind}.{k}": v for kind in ("optim", "rng") for k, v in groups[kind].items()},
    )


def _read(path: Path, kinds: Collection[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return the header, and the tensors of the wanted kinds by kind and name."""
    _refuse_foreign(path)
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    try:
        # Opening compares the file's length with what its header announces, so that a cut is seen before any tensor.
        with safe_open(path, framework="pt") as file:
            header = _parse(path, file.metadata() or {})
            for name in file.keys():  # noqa: SIM118 (not a dict)
                kind, _, rest = name.partition(".")
                if kind in kinds:
                    groups[kind][rest] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cut off or damaged ({text}); use another checkpoint of the run") from error
    return header, groups


def _refuse_foreign(path: Path) -> None:
    """Judge by content, not by name, and without unpickling anything."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise CheckpointError(f"{path}: the file is empty; use another checkpoint of the run")
    # safetensors begins with the length of its header, whose low byte may be a pickle's 0x80, and then a brace
    if start.startswith(_PICKLES) and start[8:] not in (b"{", b""):
        raise CheckpointError(
            f"{path}: this is a pickle (.pt, .pth), which can run code when loaded, so it was not opened; "
            "give a .safetensors checkpoint of unetkit"
        )


def _parse(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "unetkit" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of unetkit; give one that it wrote")
    tree = json.loads(metadata["unetkit"])
    if tree["version"] > FORMAT:
        raise CheckpointError(f"{path}: format {tree['version']}, this unetkit reads up to {FORMAT}; update unetkit")
    try:
        # JSON mode: tuples were written as lists
        tree["recipe"] = Recipe.model_validate_json(json.dumps(tree["recipe"]))
    except ValidationError as error:
        # The first fault is enough: keys inside a checkpoint are for nobody to correct.
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(
            f"{path}: its recipe does not fit this unetkit ({where}: {error.errors()[0]['msg']}); "
            f"it was written by {tree['versions'].get('unetkit', 'an unknown version')}"
        ) from error
    tree["plan"] = Plan.from_json(tree["plan"])
    return tree


def _refuse_nonfinite(path: Path, weights: Mapping[str, Tensor]) -> None:
    bad = [name for name, w in weights.items() if w.is_floating_point() and not bool(torch.isfinite(w).all())]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(weights)} weight tensors hold NaN or infinity ({_few(bad)}); "
            "training had diverged; use an earlier checkpoint or train with a lower train.optimizer.lr"
        )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: object = "checkpoint") -> None:
    """Put weights into a network that was built for them.

    Raises CheckpointError, naming the first tensors that differ, if they are another model's.
    """
    missing, unexpected, mismatched = _differences(network, weights)
    parts = [
        f"{len(names)} {what} ({_few(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if names
    ]
    if parts:
        raise CheckpointError(f"{source}: the weights are of another model: {', '.join(parts)}")
    network.load_state_dict(dict(weights))


def transfer_weights(
    network: nn.Module, weights: Mapping[str, Tensor], source: object = "checkpoint", part: str = ""
) -> list[str]:
    """Put in all weights whose name and shape fit, and return the names in the network that stay as they were.

    Raises CheckpointError if less than half of the values in the `part` of the network whose names start so get one:
    then it is another model. A network with `adapt_weights` brings them into its shapes before.
    """
    adapt = getattr(network, "adapt_weights", None)
    weights = adapt(weights) if adapt else weights
    missing, _, mismatched = _differences(network, weights)
    wrong = {name.split(" ")[0] for name in mismatched}
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and k not in wrong}
    # by values, not by tensors: norms have the shapes of those of many another model
    wanted = sum(w.numel() for k, w in own.items() if k.startswith(part))
    share = sum(w.numel() for w in fitting.values()) / max(wanted, 1)
    if share < 0.5:
        raise CheckpointError(
            f"{source}: only {len(fitting)} of the network's {len(own)} tensors ({share:.0%} of its values) are in it "
            "with the same shape; start from a run of the same model"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted({*missing, *wrong})


def _differences(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Return names that are missing, unexpected, and of another shape (with both shapes)."""
    own = network.state_dict()
    mismatched = [
        f"{k} {list(v.shape)} instead of {list(own[k].shape)}"
        for k, v in weights.items()
        if k in own and own[k].shape != v.shape
    ]
    return [k for k in own if k not in weights], [k for k in weights if k not in own], mismatched


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors (`optim.<parameter>.<name>`) and a JSON-able rest."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        tensors |= {f"optim.{index}.{k}": v for k, v in entries.items() if isinstance(v, Tensor)}
        numbers[str(index)] = {k: v for k, v in entries.items() if not isinstance(v, Tensor)}
    return tensors, {"state": numbers, "groups": state["param_groups"]}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Give an optimiser the state that `pack_optimizer` took, bit for bit.

    Raises CheckpointError if it is the state of another optimiser or of other parameters.
    """
    # JSON has no whole numbers as keys and no tuples; betas were one
    state: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in rest["state"].items()}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(".")
        index, _, entry = key.partition(".")
        if kind == "optim":
            state.setdefault(int(index), {})[entry] = tensor
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in rest["groups"]]
    own = optimizer.state_dict()["param_groups"]
    # load_state_dict takes SGD's state for AdamW without a word; the names of the options tell them apart
    if [g["params"] for g in own] != [g["params"] for g in groups] or any(
        set(a) != set(b) for a, b in zip(own, groups, strict=True)
    ):
        raise CheckpointError(
            "the optimiser's state is of another optimiser or network; resume with the recipe of the run"
        )
    optimizer.load_state_dict({"state": state, "param_groups": groups})
