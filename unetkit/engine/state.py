"""Where a training stands, and how it goes into a checkpoint and comes out again, bit for bit.

Nothing random has a state of its own: weights are drawn from the recipe's seed, and batches, augmentation and dropout
follow from (seed, step). So the step number is the whole state of samplers and random number generators.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from unetkit.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
    versions,
)
from unetkit.engine.step import Stepper
from unetkit.errors import CheckpointError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

LAST = "last.safetensors"
BEST = "best.safetensors"


@dataclass
class Progress:
    """Steps and epochs done, the best validation so far, wall-clock seconds, and the running epoch's losses.

    `stale` counts the validations since the best one, `validated` is the share of the training that was over at the
    last one. `epochs` counts those that are closed (validated and logged); `log_bytes` is the length of log.jsonl.
    `threads` are those that compute on a CPU: how sums are split over threads
    shows in the last bit, so a resumed run keeps them.
    """

    step: int = 0
    epochs: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    validated: float = 0.0
    seconds: float = 0.0
    log_bytes: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    losses: list[float] = field(default_factory=lambda: [0.0, 0])
    """Sum and number of the losses of the epoch that is running."""


@dataclass(frozen=True)
class Saver:
    """Writes and reads the checkpoints of one run folder."""

    folder: Path
    recipe: Recipe
    plan: Plan

    def save(self, name: str, stepper: Stepper, progress: Progress) -> Path:
        """Write a checkpoint, replacing the one of that name; only LAST holds what resuming needs.

        Of several processes the first one writes, in the form that a process alone would.
        Raises CheckpointError if it cannot be written.
        """
        stepper.settle()
        whole = stepper.parallel.gathered
        # tensors go into the file as such, the rest (steps, rates) into its JSON header
        tensors, numbers = pack_optimizer(stepper.optimizer)
        state = {
            "progress": asdict(progress),
            "optimizer": numbers,
            "scaler": stepper.precision.scaler.state_dict(),
            "precision": stepper.precision.format,
            "seed": self.recipe.seed,
            # resumed by another number of processes, the samples of a step stay the same
            "world": stepper.group.world,
            "batch": self.recipe.train.batch_size or self.plan.batch_size,
        }
        checkpoint = Checkpoint(
            weights=whole(stepper.network.state_dict()),
            recipe=self.recipe,
            plan=self.plan,
            versions=versions(),
            state=state,
            ema=whole(stepper.ema.state_dict()) if stepper.ema else {},
            tensors=whole(tensors) if name == LAST else {},  # moments would double or triple the file users keep
        )
        return stepper.group.first(lambda: save_checkpoint(self.folder / name, checkpoint))

    def restore(self, stepper: Stepper) -> Progress:
        """Bring network, optimiser, scaler and average to where the last checkpoint was; fresh if there is none.

        Raises CheckpointError if it is damaged or of another recipe.
        """
        path = self.folder / LAST
        if not path.is_file():
            return Progress()
        found = load_checkpoint(path, training=True)
        _load(stepper, stepper.network, found.weights, path)
        unpack_optimizer(stepper.optimizer, found.tensors, found.state["optimizer"])
        _lay_like_parameters(stepper)
        if found.state["scaler"]:  # empty unless the run was in fp16
            stepper.precision.scaler.load_state_dict(found.state["scaler"])
        if stepper.ema:
            _load_average(stepper, found.ema, path)
        return Progress(**found.state["progress"])


def _load(stepper: Stepper, network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    # what does not fit is left as it is, for the complaint about it
    fits = {name for name, value in weights.items() if name in own and own[name].shape == value.shape}
    parts = {
        name: stepper.parallel.like(value, own[name]) if name in fits else value for name, value in weights.items()
    }
    load_weights(network, parts, path)


def _lay_like_parameters(stepper: Stepper) -> None:
    """Give moments the strides of their parameters: files hold contiguous tensors, fused kernels read memory order."""
    for parameter, entries in stepper.optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = stepper.parallel.like(value, parameter)


def _load_average(stepper: Stepper, weights: dict[str, Tensor], path: Path) -> None:
    if not weights or stepper.ema is None:
        raise CheckpointError(f"{path}: holds no averaged weights; resume with the recipe of the run")
    _load(stepper, stepper.ema.network, weights, path)
