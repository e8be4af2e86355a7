"""The matrix memory of xLSTM (mLSTM, arXiv:2405.04517), done in chunks of tokens: linear in their number."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unetkit.blocks.scan import flops, oracle, torch_mlstm
from unetkit.blocks.scan.backends import choose_backend
from unetkit.errors import ShapeError

BACKENDS = ("oracle", "torch", "triton", "mlstm_kernels")


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    *,
    chunk: int = 64,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:
    """Run C_t = sigmoid(f_t) C_{t-1} + exp(i_t) k_t v_t^T, n likewise; h_t = C_t^T q_t / max(|n_t^T q_t|, 1).

    q, k [B, H, S, d], k scaled by d^-1/2 inside; v [B, H, S, e]; i, f [B, H, S], before exp and sigmoid. `chunk` tokens
    are done at once, by matrix products; it changes the speed, not the result. Stabilised by the running maximum of
    the log gates; `eps` is added to the denominator so scaled. Returns [B, H, S, e] in the dtype of q; arithmetic and
    state are fp32 (fp64, by torch, if an input is) whatever the autocast. Nothing has a unit; i and f are logarithms
    and logits. From xLSTM (arXiv:2405.04517). backend="mlstm_kernels" is the authors' forward pass with our gradients:
    their own hold the denominator constant.
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("mlstm", backend, q.device, BACKENDS)
    if backend == "oracle":
        return oracle.mlstm(q, k, v, i, f, eps).to(q.dtype)
    _check(q, k, v, i, f, chunk)
    given = [t.flatten(0, 1) for t in (q, k, v, i, f)]
    if any(t.dtype == torch.float64 for t in given):
        given, backend = [t.double() for t in given], "torch"
    h = _mlstm(*given, chunk, eps, backend)
    return h.unflatten(0, q.shape[:2]).to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int) -> None:
    """Refuse shapes that do not belong together."""
    if q.ndim != 4 or k.shape != q.shape or v.shape[:3] != q.shape[:3] or v.ndim != 4:
        raise ShapeError(
            f"mlstm got q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}; give q, k [B, H, S, d], v [B, H, S, e]"
        )
    if i.shape != q.shape[:3] or f.shape != q.shape[:3]:
        raise ShapeError(f"mlstm got i {list(i.shape)}, f {list(f.shape)}; one a token: give {list(q.shape[:3])}")
    if chunk < 1:
        raise ShapeError(f"mlstm got chunk={chunk}; give 1 or more tokens")


def _kernels(backend: str) -> ModuleType:
    """The module with `forward` and `backward`."""
    if backend == "torch":
        return torch_mlstm
    if backend == "mlstm_kernels":
        from unetkit.blocks.scan import package_mlstm

        return package_mlstm
    from unetkit.blocks.scan import triton_mlstm

    return triton_mlstm


@torch.library.custom_op("unetkit::mlstm", mutates_args=())
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int, eps: float, backend: str
) -> Tensor:  # rows [N, S, ...] to h [N, S, e], fp32 or fp64
    with torch.autocast(q.device.type, enabled=False):
        return _kernels(backend).forward((q, k, v, i, f), chunk, eps)


@torch.library.custom_op("unetkit::mlstm_backward", mutates_args=())
def _mlstm_backward(
    grad: Tensor,
    h: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    chunk: int,
    eps: float,
    backend: str,
) -> list[Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        return _kernels(backend).backward(grad, h, (q, k, v, i, f), chunk, eps)


@_mlstm.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int, eps: float, backend: str) -> Tensor:
    return v.new_empty(v.shape, dtype=torch.promote_types(v.dtype, torch.float32))


@_mlstm_backward.register_fake
def _(grad: Tensor, h: Tensor, *rest: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in rest[:5]]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:5])
    ctx.rest = inputs[5:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_mlstm_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.rest), None, None, None)


_mlstm.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.unetkit.mlstm)
def _(
    q: torch.Size,
    k: torch.Size,
    v: torch.Size,
    i: torch.Size,
    f: torch.Size,
    chunk: int,
    *_: Any,
    out_shape: Any = None,
) -> int:
    return flops.mlstm_flops(q[0] * q[1], q[2], v[2], min(chunk, q[1]))


@register_flop_formula(torch.ops.unetkit.mlstm_backward)
def _(grad: torch.Size, h: torch.Size, q: torch.Size, *rest: Any, out_shape: Any = None) -> int:
    return flops.mlstm_backward_flops(q[0] * q[1], q[2], h[2], min(rest[4], q[1]))
