"""The bidirectional WKV in plain torch: a forward and a backward running sum per channel, both done by chunks.

All sums are kept divided by exp of a scale. Within a chunk of Q tokens that is its largest key, and tokens whose weight
is too small for a float beside it do not matter: whatever the direction, the sum of both has the largest key in it,
faded by no more than FADE. What could break that (fast decays, a token's own weight far below all others) makes the
chunks shorter, down to one token, where the scale is the running maximum and exact. Decays that are negative, weights
that grow with the distance, are no different.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FADE = 20.0
"""Natural logarithm of the largest ratio of weights that the decay may make within a chunk."""
NONE = -1e30
"""Scale of a sum without any token."""


@dataclass
class Sides:
    """Sums over the tokens before and after each, [2, B, G, Q, C], each divided by exp of its scale, [B, G, 1, C]."""

    before: Tensor
    after: Tensor
    scales: tuple[Tensor, Tensor]


SidesOf = Callable[[Tensor, tuple[Tensor, Tensor | None], Tensor], Sides]


def forward(k: Tensor, v: Tensor, w: Tensor, u: Tensor, sides: SidesOf | None = None) -> tuple[Tensor, Tensor]:
    """Return the averages y and the logarithm of the sum of weights, both [B, T, C], fp32 or fp64.

    `sides` makes the running sums of chunks of one token, where this is not left to torch.
    """
    tokens, size = k.shape[1], 1 if sides else _size(k.shape[1], w, u)
    sides = sides or _sides
    key = _chunks(k, size, -torch.inf)
    value = _chunks(v, size, 0)
    sums, rest = _both(sides(key, (value, None), w))
    own = key + u
    top = torch.maximum(rest, own)
    rest, own = torch.exp(rest - top), torch.exp(own - top)
    below = torch.addcmul(own, sums[1], rest)
    y = own.mul_(value).addcmul_(sums[0], rest).div_(below)
    return _tokens(y, tokens), _tokens(top.add_(below.log_()), tokens)


def backward(
    grad: Tensor, averages: tuple[Tensor, Tensor], given: tuple[Tensor, ...], sides: SidesOf | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of k, v [B, T, C] and w, u [C]; `averages` is what `forward` gave for them."""
    (y, log), (k, v, w, u) = averages, given
    tokens, size = k.shape[1], 1 if sides else _size(k.shape[1], w, u)
    sides = sides or _sides
    key = _chunks(k, size, -torch.inf)
    value, slope, mean = (_chunks(t, size, 0) for t in (v, grad, y))
    less = -_chunks(log, size, torch.inf)
    # A pair's weight in the average is exp(k_i - w (|t - i| - 1) - log_t): the gradients are the same sums, of slopes
    # with keys -log.
    asked = sides(less, (slope, -slope * mean), w)
    dw = _decay_gradient(sides(key, (value, None), w), asked, w)
    sums, scale = _both(asked)
    weight = torch.exp(key + scale)
    own = torch.exp(key + u + less).mul_(slope)  # of a token in its own average, times the slope
    dv = torch.addcmul(own, sums[0], weight)
    du = own * (value - mean)
    dk = torch.addcmul(du, sums[1], weight).addcmul_(dv - own, value)
    return _tokens(dk, tokens), _tokens(dv, tokens), dw, du.sum((0, 1, 2))


def _size(tokens: int, w: Tensor, u: Tensor) -> int:
    """Tokens a chunk: as many as there are chunks, unless the decay or the own weights need fewer."""
    if u.min() < -FADE:
        return 1
    most = max(int(FADE / max(w.abs().max().item(), 1e-12)), 1)
    return min(most, max(1 << round(math.log2(tokens) / 2), 8), tokens)


def _chunks(t: Tensor, size: int, fill: float) -> Tensor:
    """[B, T, C] as [B, G, Q, C] in fp32 or fp64, filled up at the end."""
    t = t if t.dtype == torch.float64 else t.float()
    gap = -t.shape[1] % size
    return (F.pad(t, (0, 0, 0, gap), value=fill) if gap else t).unflatten(1, (-1, size))


def _tokens(t: Tensor, tokens: int) -> Tensor:
    """Undo `_chunks`."""
    return t.flatten(1, 2)[:, :tokens].contiguous()


def _sides(key: Tensor, values: tuple[Tensor, Tensor | None], w: Tensor) -> Sides:
    """Sums of exp(key - w distance) times each of two values (None is 1), on each side of every token."""
    size = key.shape[2]
    most = key.amax(2)
    weight = torch.exp(key - most[:, :, None])
    x = torch.stack([weight if t is None else weight * t for t in values])
    fade = torch.exp(-w * torch.arange(size, device=w.device)[:, None])
    ways, scales = [], []
    for back in (False, True):
        local, carried, scale = _one_way(x, most, w, back)
        if size == 1:
            local.copy_(carried[:, :, :, None])
        else:
            top = torch.maximum(scale, most)
            carried = (carried * torch.exp(scale - top))[:, :, :, None]
            local.mul_(torch.exp(most - top)[:, :, None]).addcmul_(carried, fade.flip(0) if back else fade)
            scale = top
        ways.append(local)
        scales.append(scale[:, :, None])
    return Sides(ways[0], ways[1], (scales[0], scales[1]))


def _one_way(x: Tensor, most: Tensor, w: Tensor, back: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Running sums within each chunk [2, B, G, Q, C]; what comes into each chunk [2, B, G, C], and its scale."""
    groups, size = x.shape[2:4]
    turn = slice(None, None, -1 if back else 1)
    local, fade = torch.empty_like(x), torch.exp(-w)
    columns, sums = x.unbind(3)[turn], local.unbind(3)[turn]
    sums[0].zero_()
    for column, old, new in zip(columns, sums, sums[1:], strict=False):
        torch.addcmul(column, old, fade, out=new)
    total = columns[-1].clone() if size == 1 else torch.addcmul(columns[-1], sums[-1], fade)
    if back:
        total, most = total.flip(2), most.flip(1)
    step = w * size
    way = step * torch.arange(groups, device=w.device)[:, None]
    top = (most + way).cummax(1)[0] - way  # scale of what leaves each chunk
    scale = torch.cat((torch.full_like(top[:, :1], NONE), top[:, :-1]), 1)
    keep = torch.exp(scale - step - top).unbind(1)
    made = total.mul_(torch.exp(most - top)).unbind(2)
    carried = torch.zeros_like(total)
    states = carried.unbind(2)
    for new, old, kept, leaving in zip(states[1:], states, keep, made, strict=False):
        torch.addcmul(leaving, old, kept, out=new)
    return (local, carried.flip(2), scale.flip(1)) if back else (local, carried, scale)


def _both(sides: Sides) -> tuple[Tensor, Tensor]:
    """Sums over all other tokens and their scale."""
    top = torch.maximum(*sides.scales)
    left, right = (torch.exp(scale - top) for scale in sides.scales)
    return (sides.before * left).addcmul_(sides.after, right), top


def _decay_gradient(given: Sides, asked: Sides, w: Tensor) -> Tensor:
    """Gradient of w [C]: every token fades each pair around it once, by exp(-w)."""
    total = torch.zeros_like(w)
    ways = ((given.before, asked.after), (given.after, asked.before))
    for (a, b), one, other in zip(ways, given.scales, reversed(asked.scales), strict=True):
        total -= ((a * b).sum((0, 3)) * torch.exp(one + other - w).squeeze(2)).sum((0, 1))
    return total
