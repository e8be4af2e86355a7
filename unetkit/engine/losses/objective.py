"""What a training step minimises, as the loop needs to know it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unetkit.engine.losses.pool import Pool


class Objective(nn.Module):
    """A loss, called with what `outputs` gives of the trained module and with labels uint8 [B, L, *S].

    `progress` is the share of the training that is done, 0 to 1, read by terms that grow. `pool` joins the sums of
    processes that train together, so that the mean of their losses is the loss of their samples as one batch.
    """

    progress: Tensor
    pool: Pool | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def outputs(self, network: nn.Module, image: Tensor) -> Any:
        """Return what of a network the loss looks at: its logits, where a loss is not of something else."""
        return network(image)


class ForwardLoss(nn.Module):
    """Network and loss as one module, so that both compile together."""

    def __init__(self, network: nn.Module, loss: Objective) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        found: Tensor = self.loss(self.loss.outputs(self.network, image), label)
        return found


class Outputs(nn.Module):
    """What an objective looks at of a network, as a module."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, image: Tensor) -> Any:
        """Return what `objective` is called with."""
        return self.objective.outputs(self.network, image)
