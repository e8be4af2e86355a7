"""What a network takes by shapes alone: parameters, operations and maps, counted on tensors without content.

`flops` are torch's count, twice the multiply-accumulates (MACs) of convolutions, matrix products, attention and, by
formulas of our own, scans. `thop_macs` follows the rules of the package thop 0.1.1, by which many published "GFLOPs"
were made, U-Bench's among them: it sees torch's own layers and no functions, so that attention, scans and layers that a
model derives for itself are missing, counts 4 per value for an affine normalisation, and takes a transposed convolution
for more than it does. Resizing counts whether a layer or a function does it, since references have it as a layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.layers import ChannelNorm, Conv2d, Conv3d
from unetkit.blocks.swin import Join

_NOTHING_MOVES = (torch.ops.aten.empty, torch.ops.aten.detach, torch.ops.aten._unsafe_view)
_INTERPOLATED = {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 259}


def trainable(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def flops(network: nn.Module, shape: Sequence[int], *, scans: bool = True) -> int:
    """Return the operations of a forward pass in evaluation on an input of this shape [B, C, *S].

    Without `scans` those of recurrent operators are left out, as counts in papers do.
    """
    learned = [p for p in network.parameters() if p.requires_grad]
    try:
        # The counter asks tensors for their gradients' functions, which views of parameters lack without gradients.
        network.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network.eval()(_input(network, shape))
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
    counted = counter.get_flop_counts()["Global"]
    return sum(int(n) for operator, n in counted.items() if scans or not str(operator).startswith("unetkit."))


def moved_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the bytes that the operators of a forward pass in evaluation read and write at least, fp32.

    Each operator by itself, a scan as one, every tensor once; views move nothing. What a device does over its
    bandwidth bounds the time from below.
    """
    image = _input(network, shape)
    with torch.no_grad(), _Moving() as moving:
        network.eval()(image)
    return moving.bytes


def kept_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the bytes that a forward pass in training keeps for its backward pass, parameters left out."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # by storage: several layers keep one map, and views share one
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(_input(network, shape))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def thop_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the multiply-accumulates of a forward pass in evaluation as thop counts them."""
    counted: list[float] = []
    with ExitStack() as stack, torch.no_grad():
        for layer in network.modules():
            rule = next((rule for kinds, rule in _THOP if type(layer) in kinds), None)
            if rule is not None:
                handle = layer.register_forward_hook(
                    lambda layer, given, out, rule=rule: counted.append(rule(layer, given[0], out))
                )
                stack.callback(handle.remove)
        stack.enter_context(_Resizing(counted))
        network.eval()(_input(network, shape))
    return int(sum(counted))


class _Resizing(TorchFunctionMode):
    """Notes the operations of interpolation."""

    def __init__(self, counted: list[float]) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The mode is off within, so that what interpolation itself calls is not counted again.
        out = func(*args, **(kwargs or {}))
        if func is functional.interpolate:
            mode = (kwargs or {}).get("mode", args[3] if len(args) > 3 else "nearest")
            self.counted.append(_INTERPOLATED.get(mode, 0) * out.numel())
        return out


class _Moving(TorchDispatchMode):
    """Adds up the bytes of what operators take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not (func.is_view or func.overloadpacket in _NOTHING_MOVES):
            tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)]
            # what is changed in place is given and taken
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def without_content(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network that takes no memory, to be counted."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values that nobody will see
        return build()


def _input(network: nn.Module, shape: Sequence[int]) -> Tensor:
    parameter = next(network.parameters())
    return torch.zeros(tuple(shape), dtype=parameter.dtype, device=parameter.device)


def _convolved(layer: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    return y.numel() * (x.shape[1] // layer.groups) * prod(layer.kernel_size)


def _normalised(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    affine = getattr(layer, "affine", False) or getattr(layer, "elementwise_affine", False)
    return (4 if affine else 2) * x.numel()


def _pooled(layer: nn.Module, x: Tensor, y: Tensor) -> float:
    return (prod(a / b for a, b in zip(x.shape[2:], y.shape[2:], strict=True)) + 1) * y.numel()


def _softmaxed(layer: nn.Softmax, x: Tensor, y: Tensor) -> int:
    assert layer.dim is not None
    return 3 * x.numel() - x.numel() // x.shape[layer.dim]


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, Conv2d, Conv3d)
_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, ChannelNorm)
_THOP: tuple[tuple[tuple[type, ...], Callable[[Any, Tensor, Tensor], float]], ...] = (
    (_CONVS, _convolved),
    (_NORMS, _normalised),
    ((nn.Linear, Join), lambda layer, x, y: layer.in_features * y.numel()),
    ((nn.PReLU,), lambda layer, x, y: x.numel()),
    ((nn.Softmax,), _softmaxed),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), lambda layer, x, y: y.numel()),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _pooled),
)
