"""The bidirectional WKV attention of Vision-RWKV (arXiv:2403.02308) in linear time."""

import torch
from torch import Tensor

from unetkit.blocks.scan import oracle
from unetkit.blocks.scan.backends import choose_backend

BACKENDS = ("oracle", "torch")


def bi_wkv(k: Tensor, v: Tensor, decay: Tensor, first: Tensor, *, backend: str = "auto") -> Tensor:
    """Average v over all tokens, weights exp(k_i - w (|t - i| - 1)), and exp(k_t + u) for the token's own.

    k, v [B, T, C]; decay, first [C], w = decay / T and u = first / T as published; either may be negative (weights
    that grow with the distance). Returns [B, T, C] in the dtype of k; arithmetic is fp32 (fp64 if an input is)
    whatever the autocast. Any T, time and memory linear in it.
    Raises ModelError for a backend that is not there.
    """
    backend = choose_backend("bi_wkv", backend, k.device, BACKENDS)
    if backend == "oracle":
        return oracle.bi_wkv(k, v, decay, first).to(k.dtype)
    dtype, tokens = k.dtype, k.shape[1]
    with torch.autocast(k.device.type, enabled=False):
        k, v, decay, first = (t if t.dtype == torch.float64 else t.float() for t in (k, v, decay, first))
        w, keys, values = decay / tokens, k.unbind(1), v.unbind(1)
        before = _causal(keys, values, w)
        after = [t[::-1] for t in _causal(keys[::-1], values[::-1], w)]
        a, b, o = (torch.stack(t, 1) for t in before)
        c, d, p = (torch.stack(t, 1) for t in after)
        own = k + first / tokens
        top = torch.maximum(torch.maximum(o, p), own)
        left, right, here = torch.exp(o - top), torch.exp(p - top), torch.exp(own - top)
        y = (left * a + right * c + here * v) / (left * b + right * d + here)
    return y.to(dtype)


def _causal(
    keys: tuple[Tensor, ...], values: tuple[Tensor, ...], w: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Sums of exp(k) v and exp(k) over the tokens before each, divided by exp(o), o their running maximum."""
    a = b = torch.zeros_like(keys[0])
    o = torch.full_like(a, -torch.finfo(a.dtype).max / 4)
    sums: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for kt, vt in zip(keys, values, strict=True):
        for kept, now in zip(sums, (a, b, o), strict=True):
            kept.append(now)
        top = torch.maximum(o - w, kt)
        keep, take = torch.exp(o - w - top), torch.exp(kt - top)
        a, b, o = keep * a + take * vt, keep * b + take, top
    return sums
