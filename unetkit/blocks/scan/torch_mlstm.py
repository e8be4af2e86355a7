"""The mLSTM by chunks in plain torch, forward and backward by hand: what the backward needs is computed again.

Per head and chunk of Q tokens, b = cumsum(log sigmoid(f)) within the chunk, c = i - b. The log weight of token j in the
output of token t is b_t + c_j, that of the memory before the chunk b_t + M. Divided by their running maximum
m_t = b_t + top_t, top_t = max(M, c_1 .. c_t), they are exp(c_j - top_t) and exp(M - top_t): no exponent is positive.
The result does not depend on the maxima (but for eps), so the backward takes them as constants.
Chunks stand first and rows (of batch and heads) second, [G, R, Q, ...], so that the memories before all chunks are one
piece of storage, and the products of all chunks one call.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 1 << 19
"""Numbers of one of q, k, v that are done at once: 2 MB, which a processor's caches hold."""


@dataclass
class Memory:
    """C [R, d, e] and n [R, d], both divided by exp(m), m [R]."""

    C: Tensor
    n: Tensor
    m: Tensor


@dataclass
class Part:
    """G equal chunks of R rows at `place` [rows, tokens], their gates and the memories around them; P = G R."""

    place: tuple[slice, slice]
    shape: tuple[int, int, int]  # G, R, Q
    q: Tensor  # [P, Q, d]
    k: Tensor
    v: Tensor  # [P, Q, e]
    c: Tensor  # [P, 1, Q]
    top: Tensor  # [P, Q, 1]
    floor: Tensor  # [P, Q, 1], exp(-m), the least denominator
    old: Tensor  # [P, Q, 1], weight of the memory before the chunk in each output
    take: Tensor  # [P, Q, 1], weight of each token in the memory after the chunk, and d^-1/2
    keep: Tensor  # [G, R], what is kept of the memory before the chunk
    C: Tensor  # [G + 1, R, d, e], before each chunk and after the last
    n: Tensor  # [G + 1, R, d]

    def lay(self, t: Tensor) -> Tensor:
        """Take this part of rows [N, S, ...] as chunks [P, Q, ...], in fp32 or fp64."""
        return _lay(t[self.place], self.shape)

    def room(self, whole: Tensor) -> Tensor:
        """Chunks [P, Q, ...] to write results into: where they belong in rows [N, S, ...] if that is one piece."""
        groups, rows, size = self.shape
        here = whole[self.place]
        if here.is_contiguous() and (groups == 1 or rows == 1) and here.dtype == self.q.dtype:
            return here.view(-1, size, *whole.shape[2:])
        return self.q.new_empty(groups * rows, size, *whole.shape[2:])

    def put(self, chunks: Tensor, whole: Tensor) -> None:
        """Write chunks [P, Q, ...] at their place in rows [N, S, ...], unless they stand there."""
        groups, rows, size = self.shape
        here = whole[self.place]
        if here.data_ptr() != chunks.data_ptr():
            target = here.unflatten(1, (groups, size)).transpose(0, 1)
            target.copy_(chunks.view(groups, rows, size, *chunks.shape[2:]))


def forward(rows: tuple[Tensor, ...], chunk: int, eps: float) -> Tensor:
    """Return h [N, S, e], fp32 or fp64, of rows (q, k [N, S, d], v [N, S, e], i, f [N, S])."""
    v = rows[2]
    h = v.new_empty(v.shape, dtype=torch.promote_types(v.dtype, torch.float32))
    for block in _blocks(rows):
        for part in _parts(rows, block, chunk):
            weight = _weights(part)[1]
            asked = part.q * part.old
            below = _denominator(part, weight, asked)[0].add_(eps)
            num = torch.bmm(weight, part.v, out=part.room(h)).baddbmm_(asked, part.C[:-1].flatten(0, 1))
            part.put(num.div_(below), h)
    return h


def backward(grad: Tensor, h: Tensor, rows: tuple[Tensor, ...], chunk: int, eps: float) -> list[Tensor]:
    """Return the gradients of the rows that `forward` took, given that of h."""
    grads = [t.new_empty(t.shape) for t in rows]
    for block in _blocks(rows):
        after = None
        for part in reversed(list(_parts(rows, block, chunk))):
            after = _backward_part(part, (grad, h, rows[4]), after, grads, eps)
    return grads


def _lay(t: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows [R, G Q, ...] as chunks [G R, Q, ...], in fp32 or fp64."""
    groups, _, size = shape
    t = t.unflatten(1, (groups, size)).transpose(0, 1).flatten(0, 1)
    return t if t.dtype == torch.float64 else t.float()


def _blocks(rows: tuple[Tensor, ...]) -> Iterator[slice]:
    """As many rows at once as there is room for."""
    number, tokens, width = rows[0].shape
    step = max(1, ROOM // (tokens * max(width, rows[2].shape[-1])))
    for start in range(0, number, step):
        yield slice(start, min(start + step, number))


def _parts(rows: tuple[Tensor, ...], block: slice, chunk: int) -> Iterator[Part]:
    """All whole chunks of some rows, then what is left of the tokens as one shorter chunk."""
    tokens, width, out = rows[0].shape[1], rows[0].shape[2], rows[2].shape[2]
    number = block.stop - block.start
    zero = rows[0].new_zeros(number, width, out, dtype=torch.promote_types(rows[0].dtype, torch.float32))
    memory = Memory(zero, zero.new_zeros(number, width), zero.new_full((number,), -torch.inf))
    size = min(chunk, tokens)
    whole = tokens // size * size
    for start, stop in ((0, whole), (whole, tokens)):
        if start < stop:
            step = min(size, stop - start)
            shape = ((stop - start) // step, number, step)
            part, memory = _part(rows, (block, slice(start, stop)), shape, memory)
            yield part


def _part(
    rows: tuple[Tensor, ...], place: tuple[slice, slice], shape: tuple[int, int, int], memory: Memory
) -> tuple[Part, Memory]:
    """Gates and memories of a run of chunks, and the memory after it."""
    groups, number, _ = shape
    q, k, v, i, f = (_lay(t[place], shape) for t in rows)
    b = F.logsigmoid(f).cumsum(-1)
    c = i - b
    run = c.cummax(-1)[0]
    m = [memory.m]
    for through, most in zip(*(t[:, -1].view(groups, number).unbind(0) for t in (b, run)), strict=True):
        m.append(through + torch.maximum(m[-1], most))
    before = torch.cat(m[:-1])[:, None]
    top = torch.maximum(run, before)
    last = top[:, -1:]
    take = (torch.exp(c - last) * k.shape[-1] ** -0.5)[..., None]
    keep = torch.exp(before - last).view(groups, number)
    C, n = _memories(k * take, v, keep, memory)
    old = torch.exp(before - top)[..., None]
    floor = torch.exp(-b - top)[..., None]
    part = Part(place, shape, q, k, v, c[:, None], top[..., None], floor, old, take, keep, C, n)
    return part, Memory(C[-1], n[-1], m[-1])


def _memories(k: Tensor, v: Tensor, keep: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """C [G + 1, R, d, e] and n [G + 1, R, d] of weighted keys: before each chunk and after the last."""
    C, n = (t.new_empty(keep.shape[0] + 1, *t.shape) for t in (memory.C, memory.n))
    C[0], n[0] = memory.C, memory.n
    torch.bmm(k.mT, v, out=C[1:].flatten(0, 1))
    torch.sum(k, 1, out=n[1:].flatten(0, 1))
    _carry(C, keep)
    _carry(n, keep)
    return C, n


def _carry(memories: Tensor, keep: Tensor, back: bool = False) -> None:
    """Add to each memory [G + 1, R, ...] what is kept of the one before (or, going back, after it), in place."""
    steps, shares = memories.unbind(0), keep.view(*keep.shape, *[1] * (memories.ndim - 2)).unbind(0)
    if back:
        steps, shares = steps[::-1], shares[::-1]
    for given, taken, share in zip(steps, steps[1:], shares, strict=False):
        taken.addcmul_(given, share)


def _weights(part: Part) -> tuple[Tensor, Tensor]:
    """Gates' weights exp(c_j - top_t) of the tokens up to each, zero above the diagonal, and times q k / sqrt(d)."""
    size = part.shape[2]
    late = torch.full((size, size), -torch.inf, dtype=part.c.dtype, device=part.c.device).triu_(1)
    # masked before exp, as later tokens can have a positive exponent of any size
    gate = (part.c - part.top).add_(late).exp_()
    scores = torch.baddbmm(gate, part.q, part.k.mT, beta=0, alpha=part.q.shape[-1] ** -0.5)
    return gate, scores.mul_(gate)


def _denominator(part: Part, weight: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """max(|n q|, exp(-m)) [P, Q, 1], and the sign of n q where it is the larger, else 0."""
    total = weight.sum(-1, keepdim=True).baddbmm_(asked, part.n[:-1].flatten(0, 1)[..., None])
    sign = torch.where(total.abs() > part.floor, total.sign(), 0)
    return torch.maximum(total.abs_(), part.floor), sign


def _backward_part(
    part: Part,
    given: tuple[Tensor, Tensor, Tensor],
    after: tuple[Tensor, Tensor] | None,
    grads: list[Tensor],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Write the gradients of a part; take those of the memory after it and return those of the memory before it."""
    grad, h, f = (part.lay(t) for t in given)
    gate, weight = _weights(part)
    asked = part.q * part.old
    below, sign = _denominator(part, weight, asked)
    up = grad / below.add_(eps)  # gradient of the numerator
    down = (up * h).sum(-1, keepdim=True).mul_(sign).neg_()  # and of n q
    dC, dn = _memory_gradients(part, asked, up, down, after)
    dq, dk, dv = (part.room(t) for t in grads[:3])
    torch.bmm(weight.mT, up, out=dv).baddbmm_(part.k * part.take, dC[1:].flatten(0, 1))
    d_weight = torch.bmm(up, part.v.mT).add_(down)
    d_log = weight.mul_(d_weight)  # of the log weights of pairs
    d_scores = d_weight.mul_(gate).mul_(part.q.shape[-1] ** -0.5)
    torch.bmm(up, part.C[:-1].flatten(0, 1).mT, out=dq).addcmul_(down, part.n[:-1].flatten(0, 1)[:, None])
    torch.bmm(part.v, dC[1:].flatten(0, 1).mT, out=dk).add_(dn[1:].flatten(0, 1)[:, None])
    dq.mul_(part.old)
    dk.mul_(part.take)
    read, written = ((t * x).sum(-1) for t, x in ((dq, part.q), (dk, part.k)))  # log weights in and out of memories
    kept = part.keep * (_dot(dC[1:], part.C[:-1]) + _dot(dn[1:], part.n[:-1]))
    sent = d_log.sum(1)
    # A forget gate stands in the weights of all pairs around it. Summed by chunk, not over all tokens, as far pairs
    # would cancel only up to rounding.
    d_forget = (d_log.sum(2) - sent + read).flip(-1).cumsum(-1).flip(-1) + kept.view(-1, 1)
    d_forget[:, 1:] += written.cumsum(-1)[:, :-1]
    done = (dq.baddbmm_(d_scores, part.k), dk.baddbmm_(d_scores.mT, part.q), dv, sent + written)
    for chunks, whole in zip((*done, d_forget * torch.sigmoid(-f)), grads, strict=True):
        part.put(chunks, whole)
    return dC[0], dn[0]


def _memory_gradients(
    part: Part, asked: Tensor, up: Tensor, down: Tensor, after: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Gradients of C [G + 1, R, d, e] and n [G + 1, R, d], given those after the part (None: no one asks for it)."""
    dC, dn = torch.empty_like(part.C), torch.empty_like(part.n)
    dC[-1], dn[-1] = after or (torch.zeros_like(dC[-1]), torch.zeros_like(dn[-1]))
    torch.bmm(asked.mT, up, out=dC[:-1].flatten(0, 1))
    torch.bmm(asked.mT, down, out=dn[:-1].flatten(0, 1)[..., None])
    _carry(dC, part.keep, back=True)
    _carry(dn, part.keep, back=True)
    return dC, dn


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all but the first two axes."""
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2))
