"""The scan of Mamba-2 in plain torch, forward and backward: matrix products within chunks, states from one to the next.

With c the running sum of the logarithms of decays in a chunk, its token i gives
y_i = sum over j <= i of (C_i B_j) exp(c_i - c_j) x_j + exp(c_i) C_i h, h being the state before it. The arguments
of exp are never positive: what lies above the diagonal is masked before. K = H / G heads share the B and C of a group,
and stand side by side in the products with them.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan.inputs import LOG2E, SsdInputs

_BLOCK = 1 << 20
"""Numbers in the largest temporary: as many chunks are done at once as stay below it."""


class _Chunks:
    """The inputs cut into chunks: x [M, B, G, Q, K, P], dt and c [M, B, G, K, Q], B and C [M, B, G, Q, N]."""

    def __init__(self, given: SsdInputs) -> None:
        self.given, self.length = given, given.x.shape[1]
        self.chunk, self.groups = given.chunk, given.B.shape[2]
        self.heads = (self.groups, given.x.shape[2] // self.groups)
        self.x = self.cut(given.x.unflatten(2, self.heads))
        self.dt = self.cut(given.dt.unflatten(2, self.heads)).transpose(3, 4).contiguous()
        self.B, self.C = self.cut(given.B), self.cut(given.C)
        self.A = given.A.to(given.dtype).view(*self.heads, 1)
        # c, to the base 2, and what rounding takes from it: differences of large sums would lose their digits
        wide = torch.float32 if self.dt.device.type == "mps" else torch.float64
        exact = (self.dt * self.A * LOG2E).to(wide).cumsum(-1)
        self.log = exact.to(given.dtype)
        self.rest = (exact - self.log).to(given.dtype)
        late = torch.ones(self.chunk, self.chunk, dtype=torch.bool, device=self.x.device)
        self.late = late.triu(1)

    def cut(self, t: Tensor) -> Tensor:
        """Bring [B, L, G, ...] to [M, B, G, Q, ...] in the working precision; what is missing at the end is 0."""
        gap = -self.length % self.chunk
        t = F.pad(t, (0, 0) * (t.ndim - 2) + (0, gap)) if gap else t
        return t.unflatten(1, (-1, self.chunk)).movedim(0, 1).movedim(2, 3).to(self.given.dtype).contiguous()

    def join(self, t: Tensor, like: Tensor) -> Tensor:
        """Bring [M, B, G, Q, ...] back to the shape and dtype of an input [B, L, ...]; never a view of it."""
        joined = t.movedim(3, 2).movedim(0, 1).flatten(1, 2)[:, : self.length]
        return joined.reshape(like.shape).to(like.dtype).contiguous()

    def blocks(self) -> Iterator[slice]:
        """Cut the chunks into runs that are done at once."""
        step = max(1, _BLOCK // (self.dt[0].numel() * self.chunk))
        return (slice(first, first + step) for first in range(0, self.dt.shape[0], step))


class _Block:
    """A run of chunks: what both passes need of it."""

    def __init__(self, chunks: _Chunks, which: slice) -> None:
        self.B, self.C, log, rest = chunks.B[which], chunks.C[which], chunks.log[which], chunks.rest[which]
        self.x = chunks.x[which] * chunks.dt[which].transpose(3, 4)[..., None]
        gaps = (log[..., :, None] - log[..., None, :]).add_(rest[..., :, None]).sub_(rest[..., None, :])
        self.within = gaps.masked_fill_(chunks.late, -torch.inf).exp2_()  # [m, B, G, K, Q, Q]
        self.mixed = self.within * (self.C @ self.B.transpose(-1, -2))[:, :, :, None]
        # what is left: of the state before at each token, of each token at the end, of the state before at the end
        self.since = log.exp2().transpose(3, 4)[..., None]  # [m, B, G, Q, K, 1]
        to_end = (log[..., -1:] - log) + (rest[..., -1:] - rest)
        self.until = to_end.exp2().transpose(3, 4)[..., None]
        self.whole = log[..., -1].exp2().repeat_interleave(self.x.shape[-1], -1)[..., None, :]  # [m, B, G, 1, KP]
        self.late_x = (self.x * self.until).flatten(4)

    def made(self) -> Tensor:
        """What the tokens of each chunk add to the state at its end, [m, B, G, N, KP]."""
        return self.B.transpose(-1, -2) @ self.late_x

    def of_states(self, states: Tensor) -> Tensor:
        """What the states before give at each token, [m, B, G, Q, K, P]."""
        return (self.C @ states).view(self.x.shape) * self.since


def _by_head(t: Tensor) -> Tensor:
    return t.transpose(3, 4).contiguous()


def forward(given: SsdInputs, keep: bool) -> tuple[Tensor, Tensor]:
    """Return y [B, L, H, P] and, if they are to be kept, the states before each chunk."""
    chunks = _Chunks(given)
    y, kept = torch.empty_like(chunks.x), chunks.x.new_empty(given.states if keep else 0)
    state = chunks.x.new_zeros(given.states[1:])
    for which in chunks.blocks():
        block = _Block(chunks, which)
        starts = []
        for made, left in zip(block.made().unbind(0), block.whole.unbind(0), strict=True):
            starts.append(state)
            state = torch.addcmul(made, left, state)
        before = torch.stack(starts)
        if keep:
            kept[which] = before
        torch.add(block.of_states(before), (block.mixed @ _by_head(block.x)).transpose(3, 4), out=y[which])
    if given.D is not None:
        y.addcmul_(chunks.x, given.D.to(given.dtype).view(chunks.groups, 1, -1, 1))
    return chunks.join(y, given.x), kept


def backward(given: SsdInputs, grad: Tensor, kept: Tensor) -> list[Tensor]:
    """Return the gradients of x, dt, A, B, C and D, an empty one if that was not given."""
    chunks = _Chunks(given)
    dy = chunks.cut(grad.unflatten(2, chunks.heads))
    dx, dB, dC, dlog = (torch.empty_like(t) for t in (chunks.x, chunks.B, chunks.C, chunks.log))
    carry = kept.new_zeros(given.states[1:])
    for which in reversed(list(chunks.blocks())):
        block = _Block(chunks, which)
        dlog[which], after, carry = _back_to_states(block, dy[which], kept[which], carry)
        dx[which], dB[which], dC[which], here = _back_to_tokens(block, dy[which], kept[which], after)
        dlog[which] += here
    # c is a sum over the tokens before, so its gradient is one over those after
    dlog = dlog.flip(-1).cumsum(-1).flip(-1)
    ddt = (dx * chunks.x).sum(-1).transpose(3, 4) + dlog * chunks.A
    dA = (dlog * chunks.dt).sum((0, 1, 4)).flatten().to(given.A.dtype)
    dx *= chunks.dt.transpose(3, 4)[..., None]
    dD = dy.new_empty(0)
    if given.D is not None:
        dD = (dy * chunks.x).sum((0, 1, 3, 5)).flatten().to(given.D.dtype)
        dx.addcmul_(dy, given.D.to(given.dtype).view(chunks.groups, 1, -1, 1))
    dx, ddt = chunks.join(dx, given.x), chunks.join(ddt.transpose(3, 4), given.dt)
    return [dx, ddt, dA, chunks.join(dB, given.B), chunks.join(dC, given.C), dD]


def _back_to_states(block: _Block, dy: Tensor, before: Tensor, carry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From `carry`, the gradient of the state after the last chunk: those of c [m, B, G, K, Q] and of all states after.

    Returns the new carry besides: the gradient of the state before the first chunk.
    """
    of_dy = block.C.transpose(-1, -2) @ (dy * block.since).flatten(4)
    after = []
    for local, left in zip(reversed(of_dy.unbind(0)), reversed(block.whole.unbind(0)), strict=True):
        after.append(carry)
        carry = torch.addcmul(local, left, carry)
    grads = torch.stack(after[::-1])
    dlog = (dy * block.of_states(before)).sum(-1).transpose(3, 4).contiguous()
    # the decay of the state over the whole chunk
    kept = (grads * before * block.whole).sum(3).unflatten(-1, (dlog.shape[3], -1)).sum(-1)
    dlog[..., -1] += kept
    return dlog, grads, carry


def _back_to_tokens(block: _Block, dy: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of dt x, B, C and, of what does not pass through the states before, of c."""
    by_head, dmixed = _by_head(dy), _by_head(dy) @ _by_head(block.x).transpose(-1, -2)
    dx = (block.B @ after).view(block.x.shape) * block.until
    late = (dx * block.x).sum(-1).transpose(3, 4)  # of c_last - c_j
    dx += (block.mixed.transpose(-1, -2) @ by_head).transpose(3, 4)
    dgaps = dmixed * block.mixed  # of c_i - c_j
    dlog = dgaps.sum(-1) - dgaps.sum(-2) - late
    dlog[..., -1] += late.sum(-1)
    dproduct = dmixed.mul_(block.within).sum(3)  # of C_i B_j
    dC = dproduct @ block.B + (dy * block.since).flatten(4) @ before.transpose(-1, -2)
    dB = dproduct.transpose(-1, -2) @ block.C + block.late_x @ after.transpose(-1, -2)
    return dx, dB, dC, dlog
