"""Steps of a tiny network on a batch of two, in one process or shared out over two that talk by gloo."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tiny_task import PLAN, Clock, SquareLoader, Squares, TinyNet, dice_on_held_out, small_recipe
from torch import Tensor, nn
from torch.nn import functional as F

from unetkit.data.share import Share
from unetkit.engine.distributed import ALONE, Group, joined
from unetkit.engine.fit import Job, fit
from unetkit.engine.losses import build_loss
from unetkit.engine.state import LAST, Progress, Saver
from unetkit.engine.step import Stepper
from unetkit.errors import DataError
from unetkit.recipe.schema import Recipe
from unetkit.types import IGNORE

KINDS = {
    "dice and cross-entropy": {},
    "batch dice": {"loss": {"batch_dice": True}},
    "weighted classes, adamw": {"loss": {"class_weights": [0.3, 2.0]}, "optimizer": {"name": "adamw", "lr": 0.01}},
    "focal": {"loss": {"name": "focal"}},
    "tversky over the batch": {"loss": {"name": "tversky", "batch_dice": True}},
    "boundary": {"loss": {"name": "boundary"}},
    "three batches a step, averaged weights": {"accumulate": 3, "ema": 0.5, "loss": {"batch_dice": True}},
    "bf16": {"precision": "bf16"},
}
"""Sections `train` of recipes."""

SHARDED = ("batch dice", "three batches a step, averaged weights", "weighted classes, adamw")
"""Those that are trained with shared out parameters too."""

STEPS = 3


class DeepNet(nn.Module):
    """Outputs at three sizes, of which the loss leaves out the smallest, so that its layer never has a gradient.

    Its body is large enough (2^18 parameters) to be a unit of its own when parameters are shared out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task = PLAN.task
        self.body = nn.Sequential(
            nn.Conv2d(1, 512, 1),
            nn.GroupNorm(2, 512),
            nn.ReLU(),
            nn.Conv2d(512, 512, 1),
            nn.Conv2d(512, 8, 3, padding=1),
        )
        self.heads = nn.ModuleList(nn.Conv2d(8, 2, 1) for _ in range(3))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.body(image)
        return tuple(head(F.avg_pool2d(found, 2**level)) for level, head in enumerate(self.heads))


def batch(number: int, share: Share, dtype: torch.dtype) -> Squares:
    """Return a share of a batch of two; in one sample most voxels are ignored."""
    whole = SquareLoader().batch(number)
    whole.label[0, :, : 8 + number % 5] = IGNORE
    rows = share.of([0, 1])
    return Squares(whole.image[rows].to(dtype), whole.label[rows], tuple(whole.case_ids[row] for row in rows))


def recipe_of(kind: str, parallel: str = "auto") -> Recipe:
    # the norm is small enough that every step is clipped
    return small_recipe(**{"precision": "fp32", "clip_norm": 0.05, "parallel": parallel} | KINDS[kind])


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Return fp64 where the recipe leaves the choice: AdamW makes much of what rounding leaves of a zero gradient."""
    return torch.float32 if recipe.train.precision == "bf16" else torch.float64


def build(recipe: Recipe, group: Group) -> Stepper:
    torch.manual_seed(0)
    network, loss = DeepNet().to(dtype_of(recipe)), build_loss(recipe.train.loss, PLAN.labels)
    return Stepper(network, loss, recipe.train, torch.device("cpu"), group)


def train(kind: str, group: Group = ALONE, parallel: str = "auto", cut: Path | None = None) -> dict[str, Tensor]:
    """Return weights (and averages) after some steps, with the last loss and norm.

    `cut` is a folder through which the training goes as a checkpoint before its last step.
    """
    recipe = recipe_of(kind, parallel)
    stepper = build(recipe, group)
    number, rate, taken = recipe.train.accumulate, recipe.train.optimizer.lr, torch.zeros(2)
    for step in range(STEPS):
        if cut and step == STEPS - 1:
            saver = Saver(cut, recipe, PLAN)
            saver.save(LAST, stepper, Progress(step))
            stepper = build(recipe, group)
            saver.restore(stepper)
        stepper.loss.progress.fill_(step / STEPS)
        turns = range(step * number, (step + 1) * number)
        taken = stepper([batch(turn, group.share, dtype_of(recipe)) for turn in turns], step, 0, rate)
    return weights_of(stepper) | {
        "loss": torch.tensor(group.gather(float(taken[0])), dtype=torch.float64).mean(),
        "norm": taken[1],
    }


def weights_of(stepper: Stepper) -> dict[str, Tensor]:
    """Return weights and averages of a stepper as they go into a checkpoint."""
    whole = stepper.parallel.gathered
    average = whole(stepper.ema.state_dict()) if stepper.ema else {}
    found = whole(stepper.network.state_dict()) | {f"ema.{name}": value for name, value in average.items()}
    return {name: value.contiguous() for name, value in found.items()}


def run(rank: int, folder: str) -> None:
    """Be one of two processes, train all kinds and write what came out."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    home = Path(folder)
    with joined() as group:
        for number, kind in enumerate(KINDS):
            save_file(train(kind, group), home / f"{number}_{rank}.safetensors")
        for number, kind in enumerate(SHARDED):
            save_file(train(kind, group, "fsdp", cut=home), home / f"sharded{number}_{rank}.safetensors")
        faults(group, home)
        interrupted(group, home)
        by_the_clock(group, home)
    dist.destroy_process_group()


def faults(group: Group, home: Path) -> None:
    """Write what errors on one process become on the other."""
    found = []

    def fail() -> None:
        raise DataError("case a: no label")

    with suppress_as(found):
        group.first(fail)
    with suppress_as(found), group.together():
        if not group.leads:
            fail()
    with suppress_as(found), group.together():
        if group.leads:
            raise ValueError("a bug\nof two lines")
    (home / f"faults_{group.share.rank}.json").write_text(json.dumps(found))


class Eventful(SquareLoader):
    """At one batch something happens, on the second process alone."""

    def __init__(self, group: Group, event: Callable[[], object]) -> None:
        super().__init__(batch_size=1)
        self.group, self.event = group, event

    def batch(self, number: int) -> Squares:
        if number == 9 and not self.group.leads:
            self.event()
        return super().batch(number)


def interrupted(group: Group, home: Path) -> None:
    """Write where a training of both ends by Ctrl-C on one, and what it ends with after it was resumed."""
    recipe = small_recipe(batch_size=1, checkpoint_steps=2)
    loaders = {
        "alone": SquareLoader(batch_size=1),
        "cut": Eventful(group, lambda: os.kill(os.getpid(), signal.SIGINT)),
        "poisoned": SquareLoader(poison=None if group.leads else 9, batch_size=1),
    }
    ends: dict[str, list[str]] = {}
    for name, loader in loaders.items():
        folder, ends[name] = home / name, []
        folder.mkdir(exist_ok=True)
        job = Job(recipe, PLAN, folder, loader, 7, dice_on_held_out, shown=False)
        torch.manual_seed(0)
        loss = build_loss(recipe.train.loss, PLAN.labels)
        with suppress_as(ends[name]):
            fit(job, Stepper(TinyNet(), loss, recipe.train, torch.device("cpu"), group))
    (home / f"ends_{group.share.rank}.json").write_text(json.dumps(ends))


def by_the_clock(group: Group, home: Path) -> None:
    """Write what a training of a minute ends with on both, whose clocks are not equally fast."""
    recipe = small_recipe(epochs=None, max_minutes=1.0, validations=2, batch_size=1)
    folder = home / "clock"
    folder.mkdir(exist_ok=True)
    job = Job(recipe, PLAN, folder, SquareLoader(batch_size=1), 7, dice_on_held_out, shown=False)
    torch.manual_seed(0)
    loss = build_loss(recipe.train.loss, PLAN.labels)
    stepper = Stepper(TinyNet(), loss, recipe.train, torch.device("cpu"), group)
    with patch("unetkit.engine.fit.time", Clock(0.05 if group.leads else 0.15)):
        step = fit(job, stepper).step
    save_file(weights_of(stepper) | {"step": torch.tensor(step)}, home / f"clock_{group.share.rank}.safetensors")


@contextmanager
def suppress_as(found: list[str]) -> Iterator[None]:
    """Note an error instead of raising it."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        found.append(f"{type(error).__name__}: {error}")
