"""The mLSTM by mlstm-kernels, the package of its authors: Triton kernels on a GPU, plain torch elsewhere.

Its forward pass is the operator's, up to `eps` (its running maximum begins at 0). Its backward passes hold the
normaliser constant, which is not the gradient of the operator: gradients are therefore ours.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan import torch_mlstm
from unetkit.blocks.scan.packages import load, power_of_two

_LIMIT = 64
"""Largest chunk whose scores fit at once; beyond it the package has kernels that tile them."""
_TILE = 128
"""Heads wider than this must be a multiple of it, others a power of 2: the kernels write whole tiles."""


def forward(rows: tuple[Tensor, ...], chunk: int, eps: float) -> Tensor:
    """Return h [N, S, e] in fp32 of rows (q, k [N, S, d], v [N, S, e], i, f [N, S]); k is scaled by the package."""
    q, k, v, i, f = (t[None] for t in rows)
    cuda, (tokens, width), out = q.is_cuda, q.shape[2:], v.shape[3]
    size = power_of_two(min(chunk, tokens))
    kernel = getattr(load("mlstm_kernels.torch.chunkwise"), kernel_name(size, cuda))
    if cuda:
        q, k, v = (tiled(t) for t in (q, k, v))
        # k is divided by the root of the width that the package sees
        k = k * (q.shape[3] / width) ** 0.5
    else:
        q, k, v = (t.float() for t in (q, k, v))  # plain torch keeps its state in the dtype of k
    # what stands behind the last token does not reach back
    missing = -tokens % size
    q, k, v = (F.pad(t, (0, 0, 0, missing)) for t in (q, k, v))
    i, f = (F.pad(t.float(), (0, missing)) for t in (i, f))
    return kernel(q, k, v, i, f, chunk_size=size, eps=eps)[0, :, :tokens, :out].float()


def tiled(t: Tensor) -> Tensor:
    """Fill the width of [..., d] with zeros up to one that the package's kernels have tiles for."""
    width = t.shape[-1]
    wanted = power_of_two(width) if width <= _TILE else -(-width // _TILE) * _TILE
    return F.pad(t, (0, wanted - width))


def kernel_name(size: int, cuda: bool) -> str:
    """Name the package's function for chunks of a size."""
    if not cuda:
        return "mlstm_chunkwise__native_autograd"
    return "mlstm_chunkwise__limit_chunk" if size <= _LIMIT else "mlstm_chunkwise__xl_chunk"


def backward(grad: Tensor, h: Tensor, rows: tuple[Tensor, ...], chunk: int, eps: float) -> list[Tensor]:
    """Return the gradients of the rows that `forward` took, given that of h."""
    return _ours(rows[0].device).backward(grad, h, rows, chunk, eps)


def _ours(device: torch.device) -> ModuleType:
    if device.type != "cuda":
        return torch_mlstm
    from unetkit.blocks.scan import triton_mlstm

    return triton_mlstm
