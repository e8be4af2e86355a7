"""The scan of Mamba-2 as Triton kernels, forward and backward, every chunk of every head a program.

Checked with Triton's interpreter and compiled for NVIDIA GPUs; their speed on a GPU has not been measured. What the
tokens of a chunk add to the state is made for all chunks at once, then states are passed from chunk to chunk, then
outputs are made for all chunks at once; the gradient goes the same way back. Nothing of the size of a chunk squared
leaves the chip.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unetkit.blocks.scan.inputs import LOG2E, SsdInputs
from unetkit.errors import ModelError

_LOG2E = tl.constexpr(LOG2E)


@triton.jit
def _product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    # three products of short floats carry what one of fp32 does
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _rows(
    x: tl.tensor, token: tl.tensor, lines: tl.tensor, line: tl.tensor, width: tl.tensor, there: tl.tensor,
    W: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Load [Q, W] of x [tokens, lines, width] at a line, 0 where there is nothing."""
    column = tl.arange(0, W)
    places = (token * lines + line)[:, None] * width + column[None, :]
    return tl.load(x + places, mask=there[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _store_rows(
    x: tl.tensor, token: tl.tensor, lines: tl.tensor, line: tl.tensor, width: tl.tensor, there: tl.tensor,
    value: tl.tensor, W: tl.constexpr,
) -> None:  # fmt: skip
    """Store [Q, W] at a line of x [tokens, lines, width]."""
    column = tl.arange(0, W)
    places = (token * lines + line)[:, None] * width + column[None, :]
    tl.store(x + places, value, mask=there[:, None] & (column < width)[None, :])


@triton.jit
def _within(log: tl.tensor, rest: tl.tensor, Q: tl.constexpr) -> tl.tensor:
    """What is left at token i of what token j added, [Q, Q]; 0 for those after i."""
    step = tl.arange(0, Q)
    gap = (log[:, None] - log[None, :]) + (rest[:, None] - rest[None, :])
    # masked before exp: above the diagonal it would overflow
    return tl.exp2(tl.where(step[:, None] >= step[None, :], tl.minimum(gap, 0.0), -float("inf")))


@triton.jit
def _here(
    dt: tl.tensor, A: tl.tensor, length: tl.tensor, heads: tl.tensor, groups: tl.tensor, states: tl.tensor,
    width: tl.tensor,
    CHUNK: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
) -> tuple:  # fmt: skip
    """What this program is about: head, group, tokens, which of them are there, places of its state; its decays.

    Those are log2 of what is left at each token, in two numbers, as differences of one lose their digits; then what is
    left at the end of what each token added, and of the state before.
    """
    head, sample = tl.program_id(1) % heads, tl.program_id(1) // heads
    step, n, p = tl.arange(0, Q), tl.arange(0, N), tl.arange(0, P)
    time = tl.program_id(0) * CHUNK + step
    there = (step < CHUNK) & (time < length)
    token = sample.to(tl.int64) * length + time
    state = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    square = (state * states + n[:, None]) * width + p[None, :]
    inside = (n < states)[:, None] & (p < width)[None, :]
    rate = tl.load(A + head).to(tl.float32)
    steps = tl.load(dt + token * heads + head, mask=there, other=0.0).to(tl.float32)
    each = (steps * (rate * _LOG2E)).to(tl.float64)
    exact, total = tl.cumsum(each, 0), tl.sum(each, 0)
    log = exact.to(tl.float32)
    rest = (exact - log.to(tl.float64)).to(tl.float32)
    until = tl.exp2(tl.minimum((total - exact).to(tl.float32), 0.0))
    group = head // (heads // groups)
    return head, group, token, there, square, inside, steps, log, rest, until, tl.exp2(total.to(tl.float32))


@triton.jit
def _add_kernel(
    x: tl.tensor, dt: tl.tensor, A: tl.tensor, weights: tl.tensor, out: tl.tensor, whole: tl.tensor,
    length: tl.tensor, heads: tl.tensor, groups: tl.tensor, states: tl.tensor, width: tl.tensor,
    TO_END: tl.constexpr, CHUNK: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """Sum w_t x_t^T over a chunk, [N, P]: of B, dt x and the decay to its end, or of C, dy and that since its start."""
    head, group, token, there, square, inside, steps, log, _rest, until, left = _here(
        dt, A, length, heads, groups, states, width, CHUNK, Q, N, P
    )
    scale = steps * until if TO_END else tl.exp2(log)
    scaled = _rows(x, token, heads, head, width, there, P) * scale[:, None]
    made = _product(tl.trans(_rows(weights, token, groups, group, states, there, N)), scaled)
    tl.store(out + square, made, mask=inside)
    tl.store(whole + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), left)


@triton.jit
def _pass_kernel(
    made: tl.tensor, whole: tl.tensor, chunks: tl.tensor, size: tl.tensor, BACK: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Put in the place of what each chunk adds the state before it; with BACK, the gradient of the state after it."""
    row, rows = tl.program_id(0), tl.num_programs(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros([BLOCK], tl.float32)
    for i in range(chunks):
        chunk = chunks - 1 - i if BACK else i
        here = rows.to(tl.int64) * chunk + row
        added = tl.load(made + here * size + place, mask=place < size, other=0.0)
        tl.store(made + here * size + place, state, mask=place < size)
        state = added + tl.load(whole + here) * state


@triton.jit
def _output_kernel(
    x: tl.tensor, dt: tl.tensor, A: tl.tensor, B: tl.tensor, C: tl.tensor, D: tl.tensor, before: tl.tensor,
    y: tl.tensor, length: tl.tensor, heads: tl.tensor, groups: tl.tensor, states: tl.tensor, width: tl.tensor,
    CHUNK: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """y of a chunk: what its own tokens give, and what the state before it does."""
    head, group, token, there, square, inside, steps, log, rest, _until, _left = _here(
        dt, A, length, heads, groups, states, width, CHUNK, Q, N, P
    )
    xs = _rows(x, token, heads, head, width, there, P)
    b = _rows(B, token, groups, group, states, there, N)
    c = _rows(C, token, groups, group, states, there, N)
    mixed = _product(c, tl.trans(b)) * _within(log, rest, Q)
    out = _product(mixed, xs * steps[:, None])
    out += _product(c, tl.load(before + square, mask=inside, other=0.0)) * tl.exp2(log)[:, None]
    if D is not None:
        out += tl.load(D + head).to(tl.float32) * xs
    _store_rows(y, token, heads, head, width, there, out, P)


@triton.jit
def _gradient_kernel(
    x: tl.tensor, dt: tl.tensor, A: tl.tensor, B: tl.tensor, C: tl.tensor, D: tl.tensor, dy: tl.tensor,
    before: tl.tensor, after: tl.tensor, dx: tl.tensor, ddt: tl.tensor, dA: tl.tensor, dB: tl.tensor, dC: tl.tensor,
    dD: tl.tensor, length: tl.tensor, heads: tl.tensor, groups: tl.tensor, states: tl.tensor, width: tl.tensor,
    CHUNK: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """All gradients of a chunk, from those of its outputs and of the state after it."""
    head, group, token, there, square, inside, steps, log, rest, until, left = _here(
        dt, A, length, heads, groups, states, width, CHUNK, Q, N, P
    )
    raw, dys = _rows(x, token, heads, head, width, there, P), _rows(dy, token, heads, head, width, there, P)
    b = _rows(B, token, groups, group, states, there, N)
    c = _rows(C, token, groups, group, states, there, N)
    h = tl.load(before + square, mask=inside, other=0.0)
    dh = tl.load(after + square, mask=inside, other=0.0)
    xs = raw * steps[:, None]
    since, until = tl.exp2(log)[:, None], until[:, None]
    within = _within(log, rest, Q)
    mixed, dmixed = _product(c, tl.trans(b)) * within, _product(dys, tl.trans(xs))
    # of the logarithms of what is left: of states before, of tokens at the end, of tokens at later tokens
    inflow, dgap, dproduct = _product(b, dh) * until, dmixed * mixed, dmixed * within
    late = tl.sum(inflow * xs, 1)
    dlog = tl.sum(dys * _product(c, h) * since, 1) + tl.sum(dgap, 1) - tl.sum(dgap, 0) - late
    last = tl.sum(late, 0) + tl.sum(tl.sum(dh * h, 1), 0) * left
    # each is a sum over the tokens before, so its gradient one over those after
    dlog = tl.cumsum(dlog, 0, reverse=True) + last
    dxs = inflow + _product(tl.trans(mixed), dys)
    tl.atomic_add(dA + head, tl.sum(dlog * steps, 0))
    tl.store(ddt + token * heads + head, tl.sum(dxs * raw, 1) + dlog * tl.load(A + head).to(tl.float32), mask=there)
    out = dxs * steps[:, None]
    if D is not None:
        out += tl.load(D + head).to(tl.float32) * dys
        tl.atomic_add(dD + head, tl.sum(tl.sum(dys * raw, 1), 0))
    _store_rows(dx, token, heads, head, width, there, out, P)
    # heads of a group add up
    n = tl.arange(0, N)
    places, both = (token * groups + group)[:, None] * states + n[None, :], there[:, None] & (n < states)[None, :]
    tl.atomic_add(dC + places, _product(dproduct, b) + _product(dys * since, tl.trans(h)), mask=both)
    tl.atomic_add(dB + places, _product(tl.trans(dproduct), c) + _product(xs * until, tl.trans(dh)), mask=both)


def _launch(given: SsdInputs) -> tuple[tuple[int, int], list[Any], list[int], dict[str, int]]:
    """The grid, the inputs as the kernels read them, their sizes, and what the kernels are compiled for."""
    if given.dtype == torch.float64:
        raise ModelError("the kernels of ssd compute in fp32, these inputs are float64; use backend='torch'")
    batch, length, heads, width = given.x.shape
    groups, states = given.B.shape[2:]
    # products on tensor cores have sides of 16 at least
    sides = {k: max(16, triton.next_power_of_2(n)) for k, n in (("Q", given.chunk), ("N", states), ("P", width))}
    tensors = [t if t is None else t.contiguous() for t in given[:6]]
    grid = (given.states[0], batch * heads)
    return grid, tensors, [length, heads, groups, states, width], {"CHUNK": given.chunk, **sides}


def _passed(given: SsdInputs, x: Tensor, weights: Tensor, back: bool) -> Tensor:
    """States before all chunks from x and B, or with `back` the gradients of those after them from dy and C."""
    grid, (_, dt, A, *_), sizes, constants = _launch(given)
    states = given.x.new_empty(given.states, dtype=given.dtype)
    whole = states.new_empty(grid)
    _add_kernel[grid](x, dt, A, weights, states, whole, *sizes, TO_END=not back, **constants)
    size = sizes[3] * sizes[4]
    block = min(1024, triton.next_power_of_2(size))
    _pass_kernel[(grid[1], triton.cdiv(size, block))](states, whole, grid[0], size, BACK=back, BLOCK=block)
    return states


def forward(given: SsdInputs, keep: bool) -> tuple[Tensor, Tensor]:
    """Return y [B, L, H, P] and, if they are to be kept, the states before each chunk."""
    grid, tensors, sizes, constants = _launch(given)
    before = _passed(given, tensors[0], tensors[3], back=False)
    y = torch.empty_like(given.x, memory_format=torch.contiguous_format)
    _output_kernel[grid](*tensors, before, y, *sizes, **constants)
    return y, before if keep else before.new_empty(0)


def backward(given: SsdInputs, grad: Tensor, kept: Tensor) -> list[Tensor]:
    """Return the gradients of x, dt, A, B, C and D, an empty one if that was not given."""
    grid, tensors, sizes, constants = _launch(given)
    dy = grad.contiguous()
    after = _passed(given, dy, tensors[4], back=True)
    dx, ddt = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in given[:2])
    # sums over programs: in fp32, from 0 on
    dA, dB, dC, dD = (kept.new_zeros(0 if t is None else t.shape) for t in (given.A, given.B, given.C, given.D))
    out = [dx, ddt, dA, dB, dC, dD]
    _gradient_kernel[grid](*tensors, dy, kept, after, *out, *sizes, **constants)
    return [g if t is None else g.to(t.dtype) for g, t in zip(out, given[:6], strict=True)]
