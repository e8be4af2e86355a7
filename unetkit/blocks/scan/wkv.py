"""The bidirectional WKV attention of Vision-RWKV (arXiv:2403.02308) in linear time."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unetkit.blocks.scan import flops, oracle, torch_wkv
from unetkit.blocks.scan.backends import choose_backend
from unetkit.errors import ShapeError

BACKENDS = ("oracle", "torch", "triton")


def bi_wkv(k: Tensor, v: Tensor, decay: Tensor, first: Tensor, *, backend: str = "auto") -> Tensor:
    """Average v over all tokens, weights exp(k_i - w (|t - i| - 1)), and exp(k_t + u) for the token's own.

    k, v [B, T, C]; decay, first [C], w = decay / T and u = first / T as published; either may be negative (weights
    that grow with the distance). Returns [B, T, C] in the dtype of k; arithmetic is fp32 (fp64, by torch, if an input
    is) whatever the autocast. Any T, time and memory linear in it. All are logarithms without unit but v, whose unit
    the result has. From Vision-RWKV (arXiv:2403.02308).
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("bi_wkv", backend, k.device, BACKENDS)
    if backend == "oracle":
        return oracle.bi_wkv(k, v, decay, first).to(k.dtype)
    _check(k, v, decay, first)
    given = [k, v, decay, first]
    if any(t.dtype == torch.float64 for t in given):
        given, backend = [t.double() for t in given], "torch"
    k_, v_, w, u = given
    # the parameters are divided in fp32 even if they are halves
    w, u = ((t if t.dtype == torch.float64 else t.float()) / k.shape[1] for t in (w, u))
    return _bi_wkv(k_, v_, w, u, backend)[0].to(k.dtype)


def _check(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> None:
    """Refuse shapes that do not belong together."""
    if k.ndim != 3 or v.shape != k.shape or decay.shape != k.shape[2:] or first.shape != k.shape[2:]:
        raise ShapeError(
            f"bi_wkv got k {list(k.shape)}, v {list(v.shape)}, decay {list(decay.shape)}, first {list(first.shape)}; "
            "give k, v [B, T, C] and decay, first [C]"
        )


def _sides(backend: str) -> torch_wkv.SidesOf | None:
    """What makes the running sums."""
    if backend != "triton":
        return None
    from unetkit.blocks.scan import triton_wkv

    return triton_wkv.sides


@torch.library.custom_op("unetkit::bi_wkv", mutates_args=())
def _bi_wkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    with torch.autocast(k.device.type, enabled=False):
        return torch_wkv.forward(k, v, w, u, _sides(backend))


@torch.library.custom_op("unetkit::bi_wkv_backward", mutates_args=())
def _bi_wkv_backward(
    grad: Tensor, y: Tensor, log: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(k.device.type, enabled=False):
        dk, dv, dw, du = torch_wkv.backward(grad, (y, log), (k, v, w, u), _sides(backend))
        return dk.to(k.dtype), dv.to(v.dtype), dw, du


@_bi_wkv.register_fake
def _(k: Tensor, v: Tensor, w: Tensor, u: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape, dtype=w.dtype), k.new_empty(k.shape, dtype=w.dtype)


@_bi_wkv_backward.register_fake
def _(
    grad: Tensor, y: Tensor, log: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape), w.new_empty(w.shape), u.new_empty(u.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:4])
    ctx.backend = inputs[4]


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_bi_wkv_backward(grad, *ctx.saved_tensors, ctx.backend), None)


_bi_wkv.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.unetkit.bi_wkv)
def _(k: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return flops.bi_wkv_flops(k.numel())


@register_flop_formula(torch.ops.unetkit.bi_wkv_backward)
def _(grad: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return flops.bi_wkv_backward_flops(grad.numel())
