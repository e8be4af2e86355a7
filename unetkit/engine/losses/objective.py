"""What a training step minimises, as the loop needs to know it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unetkit.engine.losses.pool import Pool


class Objective(nn.Module):
    """A loss, called with what the trained module gives and with labels uint8 [B, L, *S].

    `progress` is the share of the training that is done, 0 to 1, read by terms that grow. `pool` joins the sums of
    processes that train together, so that the mean of their losses is the loss of their samples as one batch.
    """

    progress: Tensor
    pool: Pool | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)
