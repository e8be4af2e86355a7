"""Peak memory and arithmetic of one training step, counted on tensors without content.

The step runs on torch's meta device: shapes and formats are those of the real one, and no memory is allocated. What
is alive at each moment is summed up; what libraries take beside it is a constant, `MARGIN_GB`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

MARGIN_GB = {"cpu": 0.4, "cuda": 1.6}
"""What a step takes beyond its tensors: libraries, and on a GPU the context and scratch memory of convolutions.

For "cuda" it is what nnU-Net's published memory (7.7, 9.1, 22.7 and 36.6 GB on an A100, arXiv:2404.09556) exceeds the
count by for its plans of abdominal CT: 1.4 to 2.0 GB, whatever the size.
"""

# What autocast on a GPU runs in the half format, and what it brings back to fp32; all else follows its inputs.
_HALVED = {
    *(getattr(F, f"conv{t}{d}d") for d in (1, 2, 3) for t in ("", "_transpose")),
    *(F.linear, F.scaled_dot_product_attention, F.prelu, torch.prelu, torch.einsum),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
}
_WIDENED = {
    *(F.layer_norm, F.group_norm, F.softmax, F.log_softmax, F.normalize, F.softplus),
    *(torch.softmax, torch.log_softmax, torch.exp, torch.cumsum, torch.norm, torch.pow, torch.rsqrt),
    *(Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.cumsum, Tensor.norm, Tensor.pow, Tensor.rsqrt),
}


@dataclass(frozen=True)
class Cost:
    """What a training step takes: `memory`, its peak in bytes, and `flops`, multiplications and additions."""

    memory: int
    flops: int

    def gb(self, device: str) -> float:
        """Return the memory in GB of 1e9 bytes with what a process on such a device ("cpu", "cuda") takes besides."""
        return self.memory / 1e9 + MARGIN_GB.get(device, MARGIN_GB["cuda"])


Loss = Callable[[Any, Tensor], Tensor]
"""(output of the network, labels [B, L, *S]) -> a scalar."""


def trace_step(
    network: nn.Module,
    loss: Loss,
    image: Sequence[int],
    label: Sequence[int],
    *,
    half: torch.dtype | None,
    kept: int,
) -> Cost:
    """Count the peak of live bytes, and FLOPs, of one step of a network on the meta device.

    `image` and `label` are the batch's shapes [B, C, *P] and [B, L, *P]; `half` the format of autocast, or None for
    fp32; `kept` the values per parameter that live from step to step (moments of the optimiser), beside the weights.
    """
    live, flops = _LiveBytes(), FlopCounterMode(display=False)
    x = torch.empty(tuple(image), device="meta")
    y = torch.empty(tuple(label), device="meta", dtype=torch.uint8)
    parameters = list(network.parameters())
    for tensor in (x, y, *parameters, *network.buffers()):
        live.add(tensor)
    live.now += kept * sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    live.peak = live.now
    with live, flops:
        with _Autocast(half):
            output = network(x)
        loss(output, y).backward()
    network.zero_grad(set_to_none=True)
    return Cost(live.peak, flops.get_total_flops())


class _LiveBytes(TorchDispatchMode):
    """Sums the storages that are alive, now and at the worst moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed; views share one, so it counts once."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Autocast(TorchFunctionMode):
    """What `torch.autocast` does on a GPU: torch itself has none for tensors without a device."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self.half = half
        # as in torch, a weight is cast once a step and kept until its end
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.half is not None and (func in _HALVED or func in _WIDENED):
            cast = self._halved if func in _HALVED else _widened
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
        return func(*args, **kwargs)

    def _halved(self, value: Tensor) -> Tensor:
        if value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(self.half)
        return self._weights.setdefault(id(value), value.to(self.half))


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
