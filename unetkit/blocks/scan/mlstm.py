"""The matrix memory of xLSTM (mLSTM, arXiv:2405.04517), done in chunks of tokens: linear in their number."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan import oracle
from unetkit.blocks.scan.backends import choose_backend

BACKENDS = ("oracle", "torch")


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
    state are fp32 (fp64 if an input is) whatever the autocast.
    Raises ModelError for a backend that is not there.
    """
    backend = choose_backend("mlstm", backend, q.device, BACKENDS)
    if backend == "oracle":
        return oracle.mlstm(q, k, v, i, f, eps).to(q.dtype)
    dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, i, f = (t if t.dtype == torch.float64 else t.float() for t in (q, k, v, i, f))
        memory = (
            q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]),
            q.new_zeros(*q.shape[:2], q.shape[-1]),
            q.new_full(q.shape[:2], -torch.inf),
        )
        parts = [t.split(chunk, 2) for t in (q, k * k.shape[-1] ** -0.5, v, i, F.logsigmoid(f))]
        out = []
        for part in zip(*parts, strict=True):
            h, memory = _chunk(*part, memory, eps)
            out.append(h)
        return torch.cat(out, 2).to(dtype)


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, memory: tuple[Tensor, Tensor, Tensor], eps: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Output of one chunk and the memory after it."""
    C, n, m = memory
    b = log_f.cumsum(-1)
    c = i - b
    top = torch.maximum(c.cummax(-1)[0], m[..., None])  # the maximum of the log weights, less b
    late = torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool, device=c.device).triu(1)
    weight = (c[..., None, :] - top[..., None]).masked_fill(late, -torch.inf).exp() * (q @ k.transpose(-1, -2))
    old = torch.exp(m[..., None] - top)[..., None]
    below = weight.sum(-1) + (old * q * n[..., None, :]).sum(-1)
    h = (weight @ v + old * (q @ C)) / (torch.maximum(below.abs(), torch.exp(-b - top)) + eps)[..., None]
    take, keep = torch.exp(c - top[..., -1:])[..., None] * k, torch.exp(m - top[..., -1])[..., None]
    memory = keep[..., None] * C + take.transpose(-1, -2) @ v, keep * n + take.sum(-2), b[..., -1] + top[..., -1]
    return h, memory
