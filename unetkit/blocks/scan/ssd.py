"""The state space dual of Mamba-2 (SSD, arXiv:2405.21060): one decay per head makes chunks matrix products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan import oracle
from unetkit.blocks.scan.backends import choose_backend

BACKENDS = ("oracle", "torch")


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
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("ssd", backend, x.device, BACKENDS)
    if backend == "oracle":
        return oracle.ssd(x, dt, A, B, C, D).to(x.dtype)
    dtype, length = x.dtype, x.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        x, dt, A, B, C = (t if t.dtype == torch.float64 else t.float() for t in (x, dt, A, B, C))
        y = _chunked(x, dt, A, B, C, min(chunk, length))
        y = y if D is None else y + D[:, None] * x
    return y.to(dtype)


def _chunked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """The chunked form on fp32 or fp64 tensors."""
    length, groups = x.shape[1], B.shape[2]
    gap = -length % chunk
    x, dt, B, C = (F.pad(t, (0, 0) * (t.ndim - 2) + (0, gap)) if gap else t for t in (x, dt, B, C))
    x = (x * dt[..., None]).unflatten(1, (-1, chunk)).unflatten(3, (groups, -1))  # [B, M, Q, G, K, P], K heads a group
    x = x.permute(0, 1, 3, 4, 2, 5)  # [B, M, G, K, Q, P]
    B, C = (t.unflatten(1, (-1, chunk)).transpose(2, 3)[:, :, :, None] for t in (B, C))  # [B, M, G, 1, Q, N]
    log = (dt * A).unflatten(1, (-1, chunk)).unflatten(3, (groups, -1)).permute(0, 1, 3, 4, 2)
    decay = log.cumsum(-1)  # log of what is left, of the state at the chunk's start, at each token
    late = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    # masked before exp: above the diagonal the difference is positive and would overflow
    within = (decay[..., :, None] - decay[..., None, :]).masked_fill(late, -torch.inf).exp()
    y = ((C @ B.transpose(-1, -2)) * within) @ x
    left = (decay[..., -1:] - decay).exp()
    made = (B * left[..., None]).transpose(-1, -2) @ x  # [B, M, G, K, N, P]
    h = torch.zeros_like(made[:, 0])
    starts = []
    for new, total in zip(made.unbind(1), decay[..., -1, None, None].exp().unbind(1), strict=True):
        starts.append(h)
        h = torch.addcmul(new, total, h)
    y = y + decay.exp()[..., None] * (C @ torch.stack(starts, 1))
    return y.permute(0, 1, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)[:, :length]
