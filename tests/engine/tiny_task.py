"""A task small enough to train in a second: bright squares on noise, and a network of two convolutions."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetkit.engine.fit import Score
from unetkit.engine.losses import build_loss
from unetkit.engine.step import Stepper
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import Recipe
from unetkit.types import Labels

PLAN = Plan(
    patch_size=(16, 16),
    batch_size=2,
    channels=("grey",),
    labels=Labels(("square",), ((1,),)),
    normalization=(Normalization("none"),),
)


class TinyNet(nn.Module):
    """Two convolutions with dropout, so that the random numbers of a step matter; `norm` adds batch norm."""

    def __init__(self, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.task = PLAN.task
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 2, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


@dataclass(frozen=True)
class Squares:
    """One batch: image, label, case ids."""

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]


class SquareLoader:
    """Batches that follow from their number; number `poison` holds an infinite voxel."""

    def __init__(self, poison: int | None = None, batch_size: int = 2) -> None:
        self.poison, self.batch_size = poison, batch_size

    def batch(self, number: int) -> Squares:
        """Return the batch of a number."""
        draw = torch.Generator().manual_seed(number)
        label = torch.zeros(self.batch_size, 1, 16, 16, dtype=torch.uint8)
        for sample in label:
            top, left = torch.randint(0, 10, (2,), generator=draw).tolist()
            sample[0, top : top + 6, left : left + 6] = 1
        image = label + 0.5 * torch.randn(label.shape, generator=draw)
        if number == self.poison:
            image[0, 0, 0, 0] = torch.inf
        return Squares(image, label, tuple(f"case{number}_{i}" for i in range(self.batch_size)))

    def batches(self, start_step: int) -> Iterator[Squares]:
        """Yield the batches from a number on."""
        while True:
            yield self.batch(start_step)
            start_step += 1


def dice_on_held_out(network: nn.Module) -> Score:
    """Mean Dice over ten batches that training does not see."""
    network.eval()
    hits = total = 0
    with torch.no_grad():
        for number in range(10_000, 10_010):
            batch = SquareLoader().batch(number)
            mask = network(batch.image).argmax(1, keepdim=True)
            hits += int((mask * batch.label).sum())
            total += int(mask.sum() + batch.label.sum())
    return Score(2 * hits / total, {"square": 2 * hits / total})


class Clock:
    """Time that moves on by the same tick whenever somebody looks at it."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 1000.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def small_recipe(**train) -> Recipe:
    """A recipe of 3 epochs with changes to its train section."""
    base = {"epochs": 3, "validate_every": 1, "optimizer": {"lr": 0.05, "momentum": 0.9}, "device": "cpu"}
    return Recipe.model_validate({"train": base | train})


def build(recipe: Recipe, network: nn.Module | None = None) -> Stepper:
    """A stepper around a network whose start follows from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return Stepper(network or TinyNet(), build_loss(recipe.train.loss, PLAN.labels), recipe.train, torch.device("cpu"))
