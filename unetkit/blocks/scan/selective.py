"""The selective scan of Mamba (S6, arXiv:2312.00752): a linear recurrence whose gates depend on the tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan import oracle
from unetkit.blocks.scan.backends import choose_backend

BACKENDS = ("oracle", "torch")


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
    an input is) whatever the autocast.
    Raises ShapeError for shapes that do not belong together, ModelError for a backend that is not there.
    """
    backend = choose_backend("selective_scan", backend, u.device, BACKENDS)
    if backend == "oracle":
        return oracle.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=reverse).to(u.dtype)
    dtype = u.dtype
    with torch.autocast(u.device.type, enabled=False):
        u, delta, A, B, C = (t if t.dtype == torch.float64 else t.float() for t in (u, delta, A, B, C))
        if delta_bias is not None:
            delta = delta + delta_bias[:, None]
        delta = F.softplus(delta) if delta_softplus else delta
        B, C = (t if t.ndim == 4 else t[:, None] for t in (B, C))
        groups = B.shape[1]
        A = A.view(groups, -1, A.shape[1])
        h = u.new_zeros(u.shape[0], *A.shape)  # [B, G, D / G, N]
        v, w = ((t.unflatten(1, (groups, -1))) for t in (u * delta, delta))
        steps = list(zip(v.unbind(-1), w.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True))
        outs = []
        for vt, wt, bt, ct in reversed(steps) if reverse else steps:
            h = torch.exp(wt[..., None] * A) * h + vt[..., None] * bt[:, :, None]
            outs.append((h @ ct[..., None])[..., 0].flatten(1))
        y = torch.stack(outs[::-1] if reverse else outs, -1)
        y = y if D is None else y + D[:, None] * u
        y = y if z is None else y * F.silu(z.to(y.dtype))
    return y.to(dtype)
