"""The selective scan as Triton kernels, forward and backward, with softplus, skip and gate in them.

Checked with Triton's interpreter and compiled for NVIDIA GPUs; their speed on a GPU has not been measured. A program
walks through one channel of one image in tiles of [states, tokens]. Within a tile the recurrence is a scan over pairs
(decay, what is added), so that only products of numbers up to 1 occur; the state goes from tile to tile in registers.
Kept are the states before each tile, in the order of the walk; the backward kernel makes the others again.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unetkit.blocks.scan.inputs import CHUNK, LOG2E, ScanInputs

_LOG2E = tl.constexpr(LOG2E)


@triton.jit
def _then(decay: tl.tensor, added: tl.tensor, next_decay: tl.tensor, next_added: tl.tensor) -> tuple:
    """Two steps of h <- decay h + added as one."""
    return decay * next_decay, next_decay * added + next_added


@triton.jit
def _softplus(x: tl.tensor) -> tl.tensor:
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    # exp of a number that is never positive, whatever the sign of x
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _step_sizes(
    delta: tl.tensor, places: tl.tensor, there: tl.tensor, bias: tl.tensor, SOFTPLUS: tl.constexpr, DTYPE: tl.constexpr
) -> tl.tensor:
    """Delta of tokens, after softplus; 0 for those that are not there, which leaves the state as it is."""
    raw = tl.load(delta + places, mask=there, other=0.0).to(DTYPE) + bias
    return tl.where(there, _softplus(raw) if SOFTPLUS else raw, 0.0)


@triton.jit
def _forward_kernel(
    u: tl.tensor, delta: tl.tensor, A: tl.tensor, B: tl.tensor, C: tl.tensor, D: tl.tensor, z: tl.tensor,
    delta_bias: tl.tensor, y: tl.tensor, kept: tl.tensor,
    channels: tl.tensor, groups: tl.tensor, states: tl.tensor, length: tl.tensor,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, KEEP: tl.constexpr,
    T: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
) -> None:  # fmt: skip
    channel, sample = tl.program_id(0), tl.program_id(1)
    width = channels // groups
    group = channel // width
    line = (sample * channels + channel).to(tl.int64) * length
    shared = (sample * groups + group).to(tl.int64) * states * length
    n, step = tl.arange(0, N), tl.arange(0, T)
    rate = tl.load(A + channel * states + n, mask=n < states, other=0.0).to(DTYPE) * _LOG2E
    bias = tl.load(delta_bias + channel).to(DTYPE) if delta_bias is not None else 0.0
    h = tl.zeros([N], DTYPE)
    for tile in range(tl.cdiv(length, T)):
        if KEEP:
            row = (tl.num_programs(1).to(tl.int64) * tile + sample) * groups + group
            tl.store(kept + (row * states + n) * width + channel % width, h, mask=n < states)
        t = tile * T + step
        there = t < length
        place = length - 1 - t if REVERSE else t
        both = (n < states)[:, None] & there[None, :]
        us = tl.load(u + line + place, mask=there, other=0.0).to(DTYPE)
        d = _step_sizes(delta, line + place, there, bias, SOFTPLUS, DTYPE)
        places = shared + n[:, None] * length + place[None, :]
        added = (d * us)[None, :] * tl.load(B + places, mask=both, other=0.0).to(DTYPE)
        decay, h_all = tl.associative_scan((tl.exp2(d[None, :] * rate[:, None]), added), 1, _then)
        h_all += decay * h[:, None]
        out = tl.sum(h_all * tl.load(C + places, mask=both, other=0.0).to(DTYPE), 0)
        if D is not None:
            out += tl.load(D + channel).to(DTYPE) * us
        if z is not None:
            gate = tl.load(z + line + place, mask=there, other=0.0).to(DTYPE)
            out *= gate * _sigmoid(gate)
        tl.store(y + line + place, out, mask=there)
        h = tl.sum(tl.where(step[None, :] == T - 1, h_all, 0.0), 1)


@triton.jit
def _backward_kernel(
    u: tl.tensor, delta: tl.tensor, A: tl.tensor, B: tl.tensor, C: tl.tensor, D: tl.tensor, z: tl.tensor,
    delta_bias: tl.tensor, dy: tl.tensor, kept: tl.tensor,
    du: tl.tensor, ddelta: tl.tensor, dA: tl.tensor, dB: tl.tensor, dC: tl.tensor, dD: tl.tensor, dz: tl.tensor,
    dbias: tl.tensor,
    channels: tl.tensor, groups: tl.tensor, states: tl.tensor, length: tl.tensor,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    T: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
) -> None:  # fmt: skip
    channel, sample = tl.program_id(0), tl.program_id(1)
    width = channels // groups
    group = channel // width
    line = (sample * channels + channel).to(tl.int64) * length
    shared = (sample * groups + group).to(tl.int64) * states * length
    n, step = tl.arange(0, N), tl.arange(0, T)
    a = tl.load(A + channel * states + n, mask=n < states, other=0.0).to(DTYPE)
    bias = tl.load(delta_bias + channel).to(DTYPE) if delta_bias is not None else 0.0
    skip = tl.load(D + channel).to(DTYPE) if D is not None else 0.0
    carry, sum_a = tl.zeros([N], DTYPE), tl.zeros([N], DTYPE)
    sum_skip, sum_bias = tl.zeros([T], DTYPE), tl.zeros([T], DTYPE)
    tiles = tl.cdiv(length, T)
    for back in range(tiles):
        tile = tiles - 1 - back
        t = tile * T + step
        there, follows = t < length, t + 1 < length
        place = length - 1 - t if REVERSE else t
        following = length - 2 - t if REVERSE else t + 1
        both = (n < states)[:, None] & there[None, :]
        places = shared + n[:, None] * length + place[None, :]
        # the states again
        row = (tl.num_programs(1).to(tl.int64) * tile + sample) * groups + group
        h = tl.load(kept + (row * states + n) * width + channel % width, mask=n < states, other=0.0)
        us = tl.load(u + line + place, mask=there, other=0.0).to(DTYPE)
        d = _step_sizes(delta, line + place, there, bias, SOFTPLUS, DTYPE)
        b = tl.load(B + places, mask=both, other=0.0).to(DTYPE)
        c = tl.load(C + places, mask=both, other=0.0).to(DTYPE)
        kept_share = tl.exp2(d[None, :] * (a * _LOG2E)[:, None])
        added = (d * us)[None, :] * b
        decay, h_all = tl.associative_scan((kept_share, added), 1, _then)
        h_all += decay * h[:, None]
        g = tl.load(dy + line + place, mask=there, other=0.0).to(DTYPE)
        if z is not None:
            gate = tl.load(z + line + place, mask=there, other=0.0).to(DTYPE)
            s = _sigmoid(gate)
            out = tl.sum(h_all * c, 0) + skip * us
            tl.store(dz + line + place, g * out * s * (1.0 + gate * (1.0 - s)), mask=there)
            g *= gate * s
        # gradients of the states, g_t = C_t dy_t + a_{t+1} g_{t+1}: the same scan from the end
        d_next = _step_sizes(delta, line + following, follows, bias, SOFTPLUS, DTYPE)
        next_share = tl.exp2(d_next[None, :] * (a * _LOG2E)[:, None])
        decay, dh = tl.associative_scan((next_share, g[None, :] * c), 1, _then, reverse=True)
        dh += decay * carry[:, None]
        carry = tl.sum(tl.where(step[None, :] == 0, dh, 0.0), 1)
        tl.atomic_add(dC + places, g[None, :] * h_all, mask=both)
        tl.atomic_add(dB + places, dh * (d * us)[None, :], mask=both)
        # a_t h_{t-1} is what was not added; where nearly nothing is kept, the difference would be rounding alone
        past = dh * tl.where(kept_share > 6e-8, h_all - added, 0.0)
        dv = tl.sum(dh * b, 0)
        dd = dv * us + tl.sum(past * a[:, None], 0)
        if SOFTPLUS:
            dd *= 1.0 - tl.exp(-d)
        tl.store(du + line + place, dv * d + g * skip, mask=there)
        tl.store(ddelta + line + place, dd, mask=there)
        sum_a += tl.sum(past * d[None, :], 1)
        sum_skip += g * us
        sum_bias += tl.where(there, dd, 0.0)
    tl.atomic_add(dA + channel * states + n, sum_a, mask=n < states)
    if D is not None:
        tl.atomic_add(dD + channel, tl.sum(sum_skip, 0))
    if delta_bias is not None:
        tl.atomic_add(dbias + channel, tl.sum(sum_bias, 0))


def _launch(given: ScanInputs) -> tuple[tuple[int, int], list[Any], list[int], dict[str, Any]]:
    """The grid, the inputs as the kernels read them, their sizes, and what the kernels are compiled for."""
    batch, channels, length = given.u.shape
    tensors = [t if t is None else t.contiguous() for t in given[:8]]
    constants = {
        "SOFTPLUS": given.softplus,
        "REVERSE": given.reverse,
        "T": CHUNK,
        "N": triton.next_power_of_2(given.A.shape[1]),
        "DTYPE": tl.float64 if given.dtype == torch.float64 else tl.float32,
    }
    return (channels, batch), tensors, [channels, given.B.shape[1], given.A.shape[1], length], constants


def forward(given: ScanInputs, keep: bool) -> tuple[Tensor, Tensor]:
    """Return y [B, D, L] and, if they are to be kept, the states before each tile."""
    grid, tensors, sizes, constants = _launch(given)
    y = torch.empty_like(given.u, memory_format=torch.contiguous_format)
    kept = given.u.new_empty(given.states if keep else 0, dtype=given.dtype)
    _forward_kernel[grid](*tensors, y, kept, *sizes, KEEP=keep, **constants)
    return y, kept


def backward(given: ScanInputs, grad: Tensor, kept: Tensor) -> list[Tensor]:
    """Return the gradients of u, delta, A, B, C, D, z and delta_bias, empty ones for those that were not given."""
    grid, tensors, sizes, constants = _launch(given)
    du, ddelta = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in given[:2])
    # sums over programs: in the working precision, from 0 on
    dA, dB, dC, dD, dbias = (
        kept.new_zeros(0 if t is None else t.shape) for t in (given.A, given.B, given.C, given.D, given.delta_bias)
    )
    dz = kept.new_empty(0) if given.z is None else torch.empty_like(given.z, memory_format=torch.contiguous_format)
    out = [du, ddelta, dA, dB, dC, dD, dz, dbias]
    _backward_kernel[grid](*tensors, grad.contiguous(), kept, *out, *sizes, **constants)
    return [g if t is None else g.to(t.dtype) for g, t in zip(out, given[:8], strict=True)]
