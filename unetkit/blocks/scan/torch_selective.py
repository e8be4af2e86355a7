"""The selective scan in plain torch, forward and backward: the backend without a GPU.

Per token there is one step on the whole state, which stays in the cache; all else is done for a chunk of tokens at
once, in buffers made once. The state is laid out [R, N, channels], its rows R being batch times groups: B and C are
broadcast along the contiguous axis, and sums over states or channels are products with a short matrix. Of the states,
only those before each chunk are kept; the backward pass walks from the last chunk to the first and makes the others
again.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan.inputs import CHUNK, LOG2E, ScanInputs


class _Lines:
    """The inputs with time as their first axis, in the working precision: [L, R, channels] and [L, R, N]."""

    def __init__(self, given: ScanInputs) -> None:
        self.given, self.dtype = given, given.dtype
        _, batch, groups, states, width = given.states
        self.shape = (batch * groups, states, width)
        self.u, delta = self.rows(given.u), self.rows(given.delta)
        if given.delta_bias is not None:
            delta = delta + self.per_channel(given.delta_bias)
        self.delta = F.softplus(delta) if given.softplus else delta
        self.v = self.delta * self.u
        self.B, self.C = (_time_first(t, self.dtype).view(-1, batch * groups, states) for t in (given.B, given.C))
        # [D, N] -> [R, N, channels]
        self.A = given.A.to(self.dtype).view(groups, width, states).transpose(1, 2).repeat(batch, 1, 1)

    def rows(self, x: Tensor) -> Tensor:
        """Bring [B, D, L] to [L, R, channels]."""
        return _time_first(x, self.dtype).view(-1, self.shape[0], self.shape[2])

    def per_channel(self, x: Tensor) -> Tensor:
        """Bring [D] to [R, channels]."""
        _, batch, groups, _, width = self.given.states
        return x.to(self.dtype).view(groups, width).repeat(batch, 1)

    def time_last(self, x: Tensor, like: Tensor) -> Tensor:
        """Bring [L, R, ...] to the shape and dtype of an input."""
        x = x.view(x.shape[0], *like.shape[:-1]).movedim(0, -1)
        return x.to(like.dtype, memory_format=torch.contiguous_format).contiguous()

    def sum_channels(self, x: Tensor, like: Tensor) -> Tensor:
        """Sum [L, R, channels] over time and batch to [D], in the dtype of an input."""
        return x.sum(0).view(-1, like.shape[0]).sum(0).to(like.dtype)


def _time_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    # if the dtype changes, the same copy brings the new layout
    return x.movedim(-1, 0).to(dtype, memory_format=torch.contiguous_format).contiguous()


class _Walk:
    """Makes the states of a chunk of tokens at a time."""

    def __init__(self, lines: _Lines) -> None:
        self.lines, self.reverse, self.length = lines, lines.given.reverse, lines.u.shape[0]
        self.rate = lines.A * LOG2E
        self.chunk_decay = lines.u.new_empty(CHUNK, *lines.shape)
        # one place more than tokens: the state before the chunk stands before its first token, or after its last
        self.chunk_states = lines.u.new_zeros(CHUNK + 1, *lines.shape)
        self.each_decay, self.each_state = self.chunk_decay.unbind(0), self.chunk_states.unbind(0)

    def chunks(self) -> Iterator[int]:
        """Number the chunks along time, in the order of the walk."""
        every = range(-(-self.length // CHUNK))
        return reversed(every) if self.reverse else iter(every)

    def run(self, chunk: int, start: Tensor) -> Tensor:
        """Step through a chunk from the state `start`, h_t = a_t h_{t-1} + v_t B_t with v = delta u; the last state.

        Leaves what the chunk is about: `tokens`, their place in `time`, their `decay` a, `before` and `after`.
        """
        lines, first = self.lines, chunk * CHUNK
        self.tokens = min(CHUNK, self.length - first)
        self.time = slice(first, first + self.tokens)
        early, late = slice(0, self.tokens), slice(1, self.tokens + 1)
        before, after = (late, early) if self.reverse else (early, late)
        self.before, self.after, self.decay = (
            self.chunk_states[before],
            self.chunk_states[after],
            self.chunk_decay[early],
        )
        steps = list(zip(self.each_state[after], self.each_decay[early], self.each_state[before], strict=True))
        if self.reverse:
            steps.reverse()
        steps[0][2].copy_(start)  # first: it may be the state that the last chunk ended with, in the same buffer
        torch.mul(lines.delta[self.time, :, None], self.rate, out=self.decay).exp2_()
        torch.mul(lines.v[self.time, :, None], lines.B[self.time, ..., None], out=self.after)
        for state, decay, last in steps:
            state.addcmul_(decay, last)
        return steps[-1][0]

    def run_back(self, grads: Sequence[Tensor], carry: Tensor) -> None:
        """Let the gradient of each state of the chunk reach those before, g_t += a_{t+1} g_{t+1}, in place.

        `carry` is what comes from the chunk that follows, and becomes what the chunk before is given.
        """
        grads, decays = grads[: self.tokens], self.each_decay[: self.tokens]
        if not self.reverse:
            grads, decays = grads[::-1], decays[::-1]
        grads[0].add_(carry)
        for g, decay, later in zip(grads[1:], decays, grads, strict=False):
            g.addcmul_(decay, later)
        torch.mul(decays[-1], grads[-1], out=carry)


def _sum_states(weights: Tensor, x: Tensor, out: Tensor) -> None:
    """Sum x [t, R, N, channels] over its states with weights [t, R, N] into out [t, R, channels]."""
    states, width = x.shape[2:]
    torch.bmm(weights.view(-1, 1, states), x.view(-1, states, width), out=out.view(-1, 1, width))


def _sum_channels(weights: Tensor, x: Tensor, out: Tensor) -> None:
    """Sum x [t, R, N, channels] over its channels with weights [t, R, channels] into out [t, R, N]."""
    states, width = x.shape[2:]
    torch.bmm(weights.view(-1, 1, width), x.view(-1, states, width).transpose(1, 2), out=out.view(-1, 1, states))


def forward(given: ScanInputs, keep: bool) -> tuple[Tensor, Tensor]:
    """Return y [B, D, L] and, if they are to be kept, the states before each chunk."""
    lines = _Lines(given)
    walk = _Walk(lines)
    y = torch.empty_like(lines.u)
    kept = lines.u.new_empty(given.states if keep else 0)
    state = torch.zeros_like(lines.A)
    for chunk in walk.chunks():
        if keep:
            kept[chunk].view(state.shape).copy_(state)
        state = walk.run(chunk, state)
        _sum_states(lines.C[walk.time], walk.after, y[walk.time])
    if given.D is not None:
        y.addcmul_(lines.u, lines.per_channel(given.D))
    if given.z is not None:
        y.mul_(F.silu(lines.rows(given.z)))
    return lines.time_last(y, given.u), kept


def backward(given: ScanInputs, grad: Tensor, kept: Tensor) -> list[Tensor]:
    """Return the gradients of u, delta, A, B, C, D, z and delta_bias, empty ones for those that were not given."""
    lines = _Lines(given)
    dy, z = lines.rows(grad), None if given.z is None else lines.rows(given.z)
    dy = dy if z is None else dy * F.silu(z)
    dv, ddelta, dA, dB, dC, y = _back_through_chunks(lines, dy, kept)
    du = dv * lines.delta
    ddelta.addcmul_(dv, lines.u)
    if given.softplus:
        # softplus' = 1 - exp(-softplus)
        ddelta.addcmul_(ddelta, torch.exp(-lines.delta), value=-1)
    dD, dz, dbias = (dy.new_empty(0) for _ in range(3))
    if given.D is not None:
        skip = lines.per_channel(given.D)
        du.addcmul_(dy, skip)
        y.addcmul_(lines.u, skip)
        dD = lines.sum_channels(dy * lines.u, given.D)
    if given.z is not None and z is not None:
        # d (z s) = s (1 + z (1 - s)) dz, s = sigmoid(z)
        s = z.sigmoid()
        slope = s * (1 + z * (1 - s))
        dz = lines.time_last(lines.rows(grad) * y * slope, given.z)
    if given.delta_bias is not None:
        dbias = lines.sum_channels(ddelta, given.delta_bias)
    _, batch, groups, _, _ = given.states
    dA = dA.unflatten(0, (batch, groups)).sum(0).transpose(1, 2).reshape(given.A.shape).to(given.A.dtype)
    turned = [lines.time_last(t, x) for t, x in ((du, given.u), (ddelta, given.delta), (dB, given.B), (dC, given.C))]
    return [*turned[:2], dA, *turned[2:], dD, dz, dbias]


def _back_through_chunks(lines: _Lines, dy: Tensor, kept: Tensor) -> list[Tensor]:
    """From the gradient of C h, return those of v, delta (as it stands in the decay), A, B, C; and C h itself."""
    walk = _Walk(lines)
    dv, ddelta, y = (torch.empty_like(lines.u) for _ in range(3))
    dB, dC = torch.empty_like(lines.B), torch.empty_like(lines.C)
    dA, carry = torch.zeros_like(lines.A), torch.zeros_like(lines.A)
    whole, spare = torch.empty_like(walk.chunk_decay), torch.empty_like(walk.chunk_decay)
    each = whole.unbind(0)
    for chunk in reversed(list(walk.chunks())):
        walk.run(chunk, kept[chunk].view(carry.shape))
        time, grad, product = walk.time, whole[: walk.tokens], spare[: walk.tokens]
        if lines.given.z is not None:
            _sum_states(lines.C[time], walk.after, y[time])
        torch.mul(dy[time, :, None], lines.C[time, ..., None], out=grad)
        walk.run_back(each, carry)
        _sum_channels(dy[time], walk.after, dC[time])
        _sum_channels(lines.v[time], grad, dB[time])
        _sum_states(lines.B[time], grad, dv[time])
        grad.mul_(walk.decay).mul_(walk.before)  # now the gradient of delta A, as d exp(x) = exp(x) dx
        torch.sum(torch.mul(grad, lines.A, out=product), 2, out=ddelta[time])
        dA += torch.mul(grad, lines.delta[time, :, None], out=product).sum(0)
    return [dv, ddelta, dA, dB, dC, y]
