"""The state space dual of Mamba-2 (SSD, arXiv:2405.21060): one decay per head makes chunks matrix products."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unetkit.blocks.scan import flops, oracle, packages, torch_ssd
from unetkit.blocks.scan.backends import choose_backend
from unetkit.blocks.scan.inputs import SsdInputs
from unetkit.errors import ModelError, ShapeError

BACKENDS = ("oracle", "torch", "triton", "mamba_ssm")


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    chunk: int = 64,
    backend: str = "auto",
) -> Tensor:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T, y_t = C_t^T h_t + D x_t over the tokens of every head.

    x [B, L, H, P]; dt [B, L, H], positive (after softplus); A [H], negative; B, C [B, L, G, N], shared by the H / G
    heads of a group; D [H]. `chunk` tokens are done at once, by matrix products; it changes the speed, not the result.
    Returns [B, L, H, P] in the dtype of x; arithmetic and state are fp32 (fp64 if an input is) whatever the autocast.
    There is no second derivative but by the oracle. dt is a step of time and A a rate per time; all else is without
    unit. From Mamba-2 (arXiv:2405.21060). backend="mamba_ssm" is the authors' Triton kernels (no fp64, chunks of
    powers of 2, their own gradients, not counted by FlopCounterMode).
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("ssd", backend, x.device, BACKENDS)
    given = SsdInputs(x, dt, A, B, C, D, chunk)
    _check(given)
    if backend == "oracle":
        return oracle.ssd(*given[:6]).to(x.dtype)
    if backend == "mamba_ssm":
        return packages.ssd(given)
    # a short input is one chunk, no longer than needed
    given = given._replace(chunk=min(chunk, x.shape[1]))
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given[:6])
    return torch.ops.unetkit.ssd(*given, backend, keep)[0]


def _check(given: SsdInputs) -> None:
    """Refuse inputs of shapes that do not belong together."""
    if given.x.ndim != 4 or given.B.ndim != 4:
        raise ShapeError(
            f"ssd got x {list(given.x.shape)}, B {list(given.B.shape)}; give x [B, L, H, P] and B [B, L, G, N]"
        )
    (batch, length, heads, _), (groups, states) = given.x.shape, given.B.shape[2:]
    if heads % groups:
        raise ShapeError(f"ssd got {heads} heads for {groups} groups of B; give a multiple of {groups}")
    if given.chunk < 1:
        raise ShapeError(f"ssd got chunks of {given.chunk} tokens; give at least 1")
    shared = (batch, length, groups, states)
    wanted = {"dt": (batch, length, heads), "A": (heads,), "B": shared, "C": shared, "D": (heads,)}
    for name, shape in wanted.items():
        tensor = getattr(given, name)
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"ssd got {name} {list(tensor.shape)}; beside its x and B it must be {list(shape)}")


_SCHEMA = "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, int chunk, str backend"


def _implementation(backend: str) -> Any:
    """The module with `forward` and `backward` of a backend."""
    if backend == "triton":
        from unetkit.blocks.scan import triton_ssd

        return triton_ssd
    return torch_ssd


@torch.library.custom_op("unetkit::ssd", mutates_args=(), schema=f"{_SCHEMA}, bool keep) -> (Tensor, Tensor)")
def _ssd(*args: Any) -> tuple[Tensor, Tensor]:
    *given, backend, keep = args
    with torch.autocast(given[0].device.type, enabled=False):
        return _implementation(backend).forward(SsdInputs(*given), keep)


@torch.library.custom_op(
    "unetkit::ssd_backward", mutates_args=(), schema=f"{_SCHEMA}, Tensor grad, Tensor kept) -> Tensor[]"
)
def _ssd_backward(*args: Any) -> list[Tensor]:
    *given, backend, grad, kept = args
    with torch.autocast(given[0].device.type, enabled=False):
        return _implementation(backend).backward(SsdInputs(*given), grad, kept)


@_ssd.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor]:
    given = SsdInputs(*args[:7])
    kept = given.x.new_empty(given.states if args[8] else 0, dtype=given.dtype)
    return torch.empty_like(given.x, memory_format=torch.contiguous_format), kept


@_ssd_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    given = SsdInputs(*args[:7])
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in args[:6] if t is not None]
    return grads if given.D is not None else [*grads, given.x.new_empty(0, dtype=given.dtype)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.rest = inputs[6:8]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *given, kept = ctx.saved_tensors
    if grad is None:
        return (None,) * 9
    grads = torch.ops.unetkit.ssd_backward(*given, *ctx.rest, grad, kept)
    return (*(None if t is None else g for t, g in zip(given, grads, strict=True)), None, None, None)


def _refuse(*_: Any) -> None:
    raise ModelError("ssd has no second derivative; use backend='oracle' for one")


_ssd.register_autograd(_differentiate, setup_context=_save)
_ssd_backward.register_autograd(_refuse)


@register_flop_formula(torch.ops.unetkit.ssd)
def _(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, chunk: int, *_: Any, out_shape: Any) -> int:
    return flops.ssd_flops(x[0] * x[1], x[2], x[3], B[3], chunk)


@register_flop_formula(torch.ops.unetkit.ssd_backward)
def _(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, chunk: int, *_: Any, out_shape: Any) -> int:
    # each product has two more, one for each of its factors; those within chunks are made again
    return 2 * flops.ssd_flops(x[0] * x[1], x[2], x[3], B[3], chunk)
