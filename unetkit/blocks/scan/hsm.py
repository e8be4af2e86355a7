"""The hidden-state mixer of EfficientViM (HSM-SSD, arXiv:2411.15241): mixing is done on N states, not on L tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unetkit.blocks.scan import flops, oracle
from unetkit.blocks.scan.backends import choose_backend
from unetkit.errors import ShapeError

BACKENDS = ("oracle", "torch")


def hsm_ssd(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    a: Tensor,
    mix: Callable[[Tensor], Tensor] | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Gather x into states h = x (softmax(dt + a) B)^T over the tokens, change them by `mix`, spread them: y = h C.

    x [B, D, L]; B, C, dt [B, N, L]; a [N]; `mix` takes states [B, D, N] and gives as many (EfficientViM: a gated
    projection). As `a` is the same for all tokens, the softmax does not feel it; it is an argument as published.
    Returns y [B, D, L] and the mixed states [B, D, N], both in the dtype of x; the arithmetic of the operator is fp32
    (fp64 if an input is) whatever the autocast, that of `mix` is its own. dt and a are logarithms without unit. From
    EfficientViM (arXiv:2411.15241).
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("hsm_ssd", backend, x.device, BACKENDS)
    _check(x, B, C, dt, a)
    given = [x, B, dt, a]
    if any(t.dtype == torch.float64 for t in (*given, C)):
        given = [t.double() for t in given]
    h = (oracle.hsm_ssd(x, B, C, dt, a)[1] if backend == "oracle" else _states(*given)).to(x.dtype)
    h = h if mix is None else mix(h).to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        wide = _wide(torch.promote_types(h.dtype, C.dtype))
        return (h.to(wide) @ C.to(wide)).to(x.dtype), h


def _check(x: Tensor, B: Tensor, C: Tensor, dt: Tensor, a: Tensor) -> None:
    """Refuse shapes that do not belong together."""
    batch, tokens = x.shape[0], x.shape[-1]
    if x.ndim != 3 or a.ndim != 1 or any(t.shape != (batch, len(a), tokens) for t in (B, C, dt)):
        shapes = ", ".join(
            f"{n} {list(t.shape)}" for n, t in zip(("x", "B", "C", "dt", "a"), (x, B, C, dt, a), strict=True)
        )
        raise ShapeError(f"hsm_ssd got {shapes}; give x [B, D, L], B, C, dt [B, N, L] and a [N]")


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


@torch.library.custom_op("unetkit::hsm_states", mutates_args=())
def _states(x: Tensor, B: Tensor, dt: Tensor, a: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        x, B, dt, a = (t.to(_wide(t.dtype)) for t in (x, B, dt, a))
        return x @ torch.softmax(dt + a[:, None], -1).mul_(B).mT


@torch.library.custom_op("unetkit::hsm_states_backward", mutates_args=())
def _states_backward(grad: Tensor, x: Tensor, B: Tensor, dt: Tensor, a: Tensor) -> list[Tensor]:
    # the softmax over tokens is made again rather than kept: [B, N, L], as large as an input
    with torch.autocast(x.device.type, enabled=False):
        wide_x, wide_B, log, bias = (t.to(_wide(t.dtype)) for t in (x, B, dt, a))
        share = torch.softmax(log + bias[:, None], -1)
        d_weight = grad.mT @ wide_x
        dx, dB = grad @ (share * wide_B), d_weight * share
        d_log = torch._softmax_backward_data(d_weight.mul_(wide_B), share, -1, share.dtype)
        da = torch.zeros_like(a)  # what a sum over the tokens would be but for rounding: the softmax does not feel it
        return [d.to(t.dtype) for d, t in zip((dx, dB, d_log, da), (x, B, dt, a), strict=True)]


@_states.register_fake
def _(x: Tensor, B: Tensor, dt: Tensor, a: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], B.shape[1], dtype=_wide(x.dtype))


@_states_backward.register_fake
def _(grad: Tensor, x: Tensor, B: Tensor, dt: Tensor, a: Tensor) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, B, dt, a)]


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return tuple(_states_backward(grad, *ctx.saved_tensors))


_states.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.unetkit.hsm_states)
def _(x: torch.Size, B: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return flops.hsm_states_flops(x, B[1])


@register_flop_formula(torch.ops.unetkit.hsm_states_backward)
def _(grad: torch.Size, x: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * flops.hsm_states_flops(x, grad[2])
