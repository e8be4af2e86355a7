"""The recurrences as they are written in the papers: float64, one token after the other. Slow; the tests' truth.

Every function is differentiable by autograd, takes what the operator of the same name takes, and returns float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
) -> Tensor:
    """Run h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t, gated by SiLU(z); [B, D, L]."""
    u, delta, A, B, C = (t.double() for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    # every channel with the B and C of its group, [B, D, N, L]
    B, C = (
        (t if t.ndim == 4 else t[:, None]).repeat_interleave(u.shape[1] // (t.shape[1] if t.ndim == 4 else 1), 1)
        for t in (B, C)
    )
    h = u.new_zeros(u.shape[0], *A.shape)  # [B, D, N]
    y = []
    steps = list(zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True))
    for ut, dt, bt, ct in reversed(steps) if reverse else steps:
        h = torch.exp(dt[..., None] * A) * h + (dt * ut)[..., None] * bt
        y.append((h * ct).sum(-1))
    out = torch.stack(y[::-1] if reverse else y, -1)
    out = out if D is None else out + D.double()[:, None] * u
    return out if z is None else out * F.silu(z.double())


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> Tensor:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T, y_t = C_t^T h_t + D x_t for every head; [B, L, H, P]."""
    x, dt, A, B, C = (t.double() for t in (x, dt, A, B, C))
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2) for t in (B, C))  # [B, L, H, N]
    h = x.new_zeros(x.shape[0], x.shape[2], B.shape[3], x.shape[3])  # [B, H, N, P]
    y = []
    for xt, st, bt, ct in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(st * A)[..., None, None] * h + (st[..., None] * bt)[..., None] * xt[..., None, :]
        y.append((ct[..., None] * h).sum(-2))
    out = torch.stack(y, 1)
    return out if D is None else out + D.double()[:, None] * x


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, eps: float = 1e-6) -> Tensor:
    """Run the stabilised mLSTM: C and n divided by exp(m), m the running maximum of the log gates; [B, H, S, d]."""
    q, k, v, i, f = (t.double() for t in (q, k * k.shape[-1] ** -0.5, v, i, f))
    C = q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1])
    n = q.new_zeros(*q.shape[:2], k.shape[-1])
    m = q.new_full(q.shape[:2], -torch.inf)
    h = []
    for qt, kt, vt, it, ft in zip(*(t.unbind(2) for t in (q, k, v, i, F.logsigmoid(f))), strict=True):
        m, before = torch.maximum(ft + m, it), m
        keep, take = torch.exp(ft + before - m)[..., None], torch.exp(it - m)[..., None]
        C = keep[..., None] * C + take[..., None] * kt[..., :, None] * vt[..., None, :]
        n = keep * n + take * kt
        weight = torch.maximum((n * qt).sum(-1).abs(), torch.exp(-m)) + eps
        h.append((qt[..., None, :] @ C).squeeze(-2) / weight[..., None])
    return torch.stack(h, 2)


def bi_wkv(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """Weigh every v_i by exp(k_i - w (|t - i| - 1)), the own one by exp(k_t + u), w and u divided by T; [B, T, C]."""
    k, v, decay, first = (t.double() for t in (k, v, decay, first))
    tokens = k.shape[1]
    place = torch.arange(tokens, device=k.device)
    gap = (place[:, None] - place).abs()[..., None]  # [T, T, 1]
    log = torch.where(gap == 0, first / tokens, -decay / tokens * (gap - 1))  # [T, T, C]
    return torch.einsum("btic,bic->btc", torch.softmax(log + k[:, None], 2), v)


def hsm_ssd(x: Tensor, B: Tensor, C: Tensor, dt: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Gather x into N states, weights softmax(dt + a) B over tokens, and spread them by C; [B, D, L] and [B, D, N]."""
    x, B, C, dt, a = (t.double() for t in (x, B, C, dt, a))
    log = dt + a[:, None]
    weight = torch.exp(log - log.amax(-1, keepdim=True))
    weight = weight / weight.sum(-1, keepdim=True) * B
    h = torch.einsum("bdl,bnl->bdn", x, weight)
    return torch.einsum("bdn,bnl->bdl", h, C), h
