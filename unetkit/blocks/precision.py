"""Where autocast must not reach: recurrences and what feeds them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast on the device of a tensor is off."""
    kind = x.device.type
    # tensors without content, on which costs are counted, have no autocast to switch off
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def at_least_fp32(x: Tensor) -> Tensor:
    """Return a tensor in fp32, or as it is if it is finer."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
