"""The hidden-state mixer of EfficientViM (HSM-SSD, arXiv:2411.15241): mixing is done on N states, not on L tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from unetkit.blocks.scan import oracle
from unetkit.blocks.scan.backends import choose_backend

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
    (fp64 if an input is) whatever the autocast, that of `mix` is its own.
    Raises ModelError for a backend that is not there.
    """
    backend = choose_backend("hsm_ssd", backend, x.device, BACKENDS)
    dtype = x.dtype
    if backend == "oracle":
        h = oracle.hsm_ssd(x, B, C, dt, a)[1]
    else:
        with torch.autocast(x.device.type, enabled=False):
            x, B, dt, a = (t if t.dtype == torch.float64 else t.float() for t in (x, B, dt, a))
            h = x @ (torch.softmax(dt + a[:, None], -1) * B).transpose(1, 2)
    h = h.to(dtype)
    h = h if mix is None else mix(h)
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(h.dtype, C.dtype), torch.float32)
        return (h.to(wide) @ C.to(wide)).to(dtype), h.to(dtype)
