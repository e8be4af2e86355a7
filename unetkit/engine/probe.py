"""Real training steps on a GPU, to put right what the estimate of a plan's memory missed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from unetkit.engine.estimate import StepEstimate
from unetkit.engine.goal import with_loss
from unetkit.engine.pretrain import views_of
from unetkit.engine.step import Stepper
from unetkit.errors import RecipeError
from unetkit.infer.network import build_network
from unetkit.plan.budget import SMALLEST_BATCH, memory_target
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

CONTEXT_GB = 0.5
"""What CUDA itself takes of a GPU, which torch's allocator does not count."""
# A target lowered so often by what was measured has shown that measuring does not lead anywhere.
_MOST_PLANS = 4

Measure = Callable[[Plan], float]
"""GB of a training step of a plan; raises torch.OutOfMemoryError where the device has not so much."""


@dataclass(frozen=True)
class Probe:
    """Looks for the largest batch of a plan whose real step stays within `target_gb`."""

    measure: Measure
    target_gb: float

    def fits(self, plan: Plan) -> float | None:
        """Return the GB that a step takes, or None if it does not fit."""
        try:
            taken = self.measure(plan)
        except torch.OutOfMemoryError:
            return None
        return taken if taken <= self.target_gb else None

    def corrected(self, plan: Plan, *, fixed_batch: bool) -> Plan | None:
        """Return the plan with its batch, or a smaller one if that fits only; None if not even the smallest does."""
        taken = self.fits(plan)
        if taken is not None:
            return _measured(plan, plan.batch_size, taken, "as estimated")
        # largest known to fit, smallest known not to
        low, high, taken_low = SMALLEST_BATCH - 1, plan.batch_size, 0.0
        while high - low > 1 and not fixed_batch:
            middle = (low + high) // 2
            taken = self.fits(replace(plan, batch_size=middle))
            if taken is None:
                high = middle
            else:
                low, taken_low = middle, taken
        if low < SMALLEST_BATCH or fixed_batch:
            return None
        return _measured(plan, low, taken_low, f"{plan.batch_size} as estimated did not fit")


def _measured(plan: Plan, batch: int, taken: float, why: str) -> Plan:
    reason = f"{plan.reasons.get('batch_size', '')}; a real step of {batch} took {taken:.3g} GB ({why})"
    return replace(
        plan,
        batch_size=batch,
        expected={**plan.expected, "memory_gb": round(taken, 3)},
        reasons={**plan.reasons, "batch_size": reason.removeprefix("; ")},
    )


def settle(decide: Callable[[float], Plan], probe: Probe, *, fixed_batch: bool) -> Plan:
    """Return a plan whose step was seen to fit: `decide` plans for so many GB, less after each plan that did not fit.

    Raises RecipeError if no plan does.
    """
    target = probe.target_gb
    for _ in range(_MOST_PLANS):
        plan = decide(target)
        found = probe.corrected(plan, fixed_batch=fixed_batch)
        if found is not None:
            return found
        target = 0.75 * min(target, plan.expected.get("memory_gb", target))
    raise RecipeError(
        f"plan.memory_gb={probe.target_gb:.3g}: no step fits, down to patches of {list(plan.patch_size)} with a batch "
        f"of {plan.batch_size}; free the GPU of other work, raise plan.memory_gb, or give data.patch_size and "
        "train.batch_size"
    )


def sized_plan(decide: Callable[[Recipe, Callable[[Plan], float]], Plan], recipe: Recipe, device: torch.device) -> Plan:
    """Return the plan that `decide` makes of a recipe and a measure, its sizes tried out where the device is a GPU."""
    estimate = StepEstimate(recipe, device)
    given = recipe.plan.file is not None or (recipe.data.patch_size is not None and recipe.train.batch_size is not None)
    if device.type != "cuda" or recipe.plan.planner != "unetkit" or given:
        return decide(recipe, estimate)

    def for_target(gigabytes: float) -> Plan:
        section = recipe.plan.model_copy(update={"memory_gb": gigabytes})
        return decide(recipe.model_copy(update={"plan": section}), estimate)

    probe = Probe(lambda plan: real_step(plan, recipe, device), memory_target(recipe.plan.memory_gb))
    return settle(for_target, probe, fixed_batch=recipe.train.batch_size is not None)


@dataclass(frozen=True)
class _Noise:
    """A batch without meaning."""

    image: torch.Tensor
    label: torch.Tensor
    case_ids: tuple[str, ...] = ()


def real_step(plan: Plan, recipe: Recipe, device: torch.device) -> float:
    """Train two steps on noise and return the GB that they took of a GPU; everything is freed again.

    Raises torch.OutOfMemoryError if it has not so much.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _two_steps(plan, recipe, device)
        return torch.cuda.max_memory_reserved(device) / 1e9 + CONTEXT_GB
    finally:
        # an error holds the frames in which the tensors live until it is handled: what is left then is collected
        gc.collect()
        torch.cuda.empty_cache()


def _two_steps(plan: Plan, recipe: Recipe, device: torch.device) -> None:
    network, loss = with_loss(build_network(recipe, plan, start=False), recipe, plan)
    # compiling takes minutes, and takes less memory rather than more
    stepper = Stepper(network, loss, recipe.train.model_copy(update={"compile": False}), device)
    samples = views_of(recipe) * plan.batch_size
    image = torch.zeros(samples, plan.task.in_channels, *plan.patch_size)
    label = torch.zeros(samples, plan.labels.layers, *plan.patch_size, dtype=torch.uint8)
    batches = [_Noise(image, label)] * recipe.train.accumulate
    # the optimiser makes its moments in the first step, and needs them all in the second
    for step in range(2):
        stepper(batches, step, recipe.seed, 0.0)
    torch.cuda.synchronize(device)
