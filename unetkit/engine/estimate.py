"""What a training step will take, before anything is trained: the recipe's own network and loss, without content."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import nn

from unetkit.engine.goal import with_loss
from unetkit.engine.losses.objective import Outputs
from unetkit.engine.precision import HALF, choose_format
from unetkit.engine.pretrain import views_of
from unetkit.errors import RecipeError, UnetkitError
from unetkit.infer.network import build_network
from unetkit.plan.memory import Cost, trace_step
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe


class StepEstimate:
    """Weighs training steps of one recipe on a device, which need not be there; each plan's step is counted once."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self._known: dict[tuple[object, ...], Cost] = {}

    def __call__(self, plan: Plan) -> float:
        """Return the GB that a step of this plan takes on the device."""
        return self.cost(plan).gb(self.device.type)

    def cost(self, plan: Plan) -> Cost:
        """Return the peak of tensors in bytes and the arithmetic of one batch.

        Raises RecipeError for a network that asks for values and not only for shapes.
        """
        key = (plan.task, plan.batch_size, plan.strides, plan.kernels, plan.widths)
        if key not in self._known:
            self._known[key] = self._counted(plan)
        return self._known[key]

    def _counted(self, plan: Plan) -> Cost:
        train = self.recipe.train
        network = self._network(plan)
        with torch.device("meta"):
            network, loss = with_loss(network, self.recipe, plan)
        shape = (views_of(self.recipe) * plan.batch_size, plan.task.in_channels, *plan.patch_size)
        labels = (shape[0], plan.labels.layers, *plan.patch_size)
        half = HALF.get(choose_format(train.precision, self.device))
        try:
            return trace_step(Outputs(network, loss), loss, shape, labels, half=half, kept=self._kept())
        except UnetkitError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise RecipeError(
                f"the memory of {self.recipe.model.name} cannot be counted without running it ({reason}); give "
                "data.patch_size and train.batch_size"
            ) from error

    def _kept(self) -> int:
        """Return how many values are kept for each parameter from step to step, beside itself."""
        train = self.recipe.train
        moments = 2 if train.optimizer.name == "adamw" else int(train.optimizer.momentum > 0)
        # an average is a second network; gradients that are added up live through the next forward pass
        return moments + int(train.ema > 0) + int(train.accumulate > 1)

    def _network(self, plan: Plan) -> nn.Module:
        with warnings.catch_warnings(), torch.device("meta"):
            # about initial values that nobody will see
            warnings.simplefilter("ignore")
            return build_network(self.recipe, plan, start=False).train()


def expected(plan: Plan, estimate: StepEstimate) -> Plan:
    """Return the plan with the memory that its training is expected to take, where nothing was measured yet."""
    if "memory_gb" in plan.expected:
        return plan
    return replace(plan, expected={**plan.expected, "memory_gb": round(estimate(plan), 3)})
