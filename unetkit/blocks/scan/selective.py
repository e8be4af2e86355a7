"""The selective scan of Mamba (S6, arXiv:2312.00752): a linear recurrence whose gates depend on the tokens."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unetkit.blocks.scan import flops, oracle, packages, torch_selective
from unetkit.blocks.scan.backends import choose_backend
from unetkit.blocks.scan.inputs import ScanInputs
from unetkit.errors import ModelError, ShapeError

BACKENDS = ("oracle", "torch", "triton", "mamba_ssm")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Run h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t over tokens; y SiLU(z) if z is given.

    u, delta, z [B, D, L]; A [D, N], negative; B, C [B, N, L], or [B, G, N, L] for G groups of D / G channels each; D,
    delta_bias [D]. With `delta_softplus`, delta is softplus(delta + delta_bias). With `reverse`, tokens run from the
    last to the first, without being copied. Returns [B, D, L] in the dtype of u; arithmetic and state are fp32 (fp64 if
    an input is) whatever the autocast. There is no second derivative but by the oracle. delta is a step of time and A a
    rate per time; all else is without unit. From Mamba (arXiv:2312.00752), its Euler step for B.
    backend="mamba_ssm" is the authors' CUDA kernel (no fp64, its own gradients, not counted by FlopCounterMode).
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("selective_scan", backend, u.device, BACKENDS)
    B, C = (t if t.ndim == 4 else t[:, None] for t in (B, C))
    given = ScanInputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    _check(given)
    if backend == "oracle":
        return oracle.selective_scan(*given[:9], reverse=reverse).to(u.dtype)
    if backend == "mamba_ssm":
        return packages.selective_scan(given)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given[:8])
    return torch.ops.unetkit.selective_scan(*given, backend, keep)[0]


def _check(given: ScanInputs) -> None:
    """Refuse inputs of shapes that do not belong together."""
    if given.u.ndim != 3 or given.A.ndim != 2 or given.B.ndim != 4:
        shapes = ", ".join(f"{name} {list(getattr(given, name).shape)}" for name in ("u", "A", "B"))
        raise ShapeError(f"selective_scan got {shapes}; give u [B, D, L], A [D, N], B [B, N, L] or [B, G, N, L]")
    (batch, channels, length), groups, states = given.u.shape, given.B.shape[1], given.A.shape[1]
    if channels % groups:
        raise ShapeError(
            f"selective_scan got {channels} channels for {groups} groups of B; give a multiple of {groups}"
        )
    tokens, shared = (batch, channels, length), (batch, groups, states, length)
    wanted = {"delta": tokens, "A": (channels, states), "B": shared, "C": shared, "z": tokens}
    for name, shape in (wanted | {"D": (channels,), "delta_bias": (channels,)}).items():
        tensor = getattr(given, name)
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"selective_scan got {name} {list(tensor.shape)}; beside its u it must be {list(shape)}")


_SCHEMA = (
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool softplus, "
    "bool reverse, str backend"
)


def _implementation(backend: str) -> Any:
    """The module with `forward` and `backward` of a backend."""
    if backend == "triton":
        from unetkit.blocks.scan import triton_selective

        return triton_selective
    return torch_selective


@torch.library.custom_op(
    "unetkit::selective_scan", mutates_args=(), schema=f"{_SCHEMA}, bool keep) -> (Tensor, Tensor)"
)
def _scan(*args: Any) -> tuple[Tensor, Tensor]:
    *given, backend, keep = args
    with torch.autocast(given[0].device.type, enabled=False):
        return _implementation(backend).forward(ScanInputs(*given), keep)


@torch.library.custom_op(
    "unetkit::selective_scan_backward", mutates_args=(), schema=f"{_SCHEMA}, Tensor grad, Tensor kept) -> Tensor[]"
)
def _scan_backward(*args: Any) -> list[Tensor]:
    *given, backend, grad, kept = args
    with torch.autocast(given[0].device.type, enabled=False):
        return _implementation(backend).backward(ScanInputs(*given), grad, kept)


@_scan.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor]:
    given = ScanInputs(*args[:10])
    kept = given.u.new_empty(given.states if args[11] else 0, dtype=given.dtype)
    return torch.empty_like(given.u, memory_format=torch.contiguous_format), kept


@_scan_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    dtype = ScanInputs(*args[:10]).dtype
    return [
        args[0].new_empty(0, dtype=dtype) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in args[:8]
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8], output[1])
    ctx.rest = inputs[8:11]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *given, kept = ctx.saved_tensors
    if grad is None:
        return (None,) * 12
    grads = torch.ops.unetkit.selective_scan_backward(*given, *ctx.rest, grad, kept)
    return (*(None if t is None else g for t, g in zip(given, grads, strict=True)), None, None, None, None)


def _refuse(*_: Any) -> None:
    raise ModelError("selective_scan has no second derivative; use backend='oracle' for one")


_scan.register_autograd(_differentiate, setup_context=_save)
_scan_backward.register_autograd(_refuse)


@register_flop_formula(torch.ops.unetkit.selective_scan)
def _(u: Any, delta: Any, A: Any, *_: Any, out_shape: Any) -> int:
    return flops.selective_scan_flops(u[0], u[2], *A)


@register_flop_formula(torch.ops.unetkit.selective_scan_backward)
def _(u: Any, delta: Any, A: Any, *_: Any, out_shape: Any) -> int:
    return flops.selective_scan_backward_flops(u[0], u[2], *A)
