"""The running sums of the bidirectional WKV as Triton kernels; what is made of them is torch_wkv's.

Chunks of tokens run beside each other: one kernel sums each chunk, one carries the sums from chunk to chunk, one writes
the sums before (and after) every token. The scale of a sum is its running maximum, exact at any decay. Tested with
Triton's interpreter; not measured on a GPU.
"""

import triton
import triton.language as tl
from torch import Tensor

from unetkit.blocks.scan.torch_wkv import NONE, Sides

CHUNK = 32
CHANNELS = 32


@triton.jit
def _step(
    a: tl.tensor, b: tl.tensor, scale: tl.tensor, key: tl.tensor, first: tl.tensor, second: tl.tensor, w: tl.tensor,
) -> tuple:  # fmt: skip
    """Let a token into sums a, b divided by exp(scale), after they have faded by exp(-w)."""
    top = tl.maximum(scale - w, key)
    keep, take = tl.exp(scale - w - top), tl.exp(key - top)
    return a * keep + take * first, b * keep + take * second, top


@triton.jit
def _run(
    key_: tl.tensor, first_: tl.tensor, second_: tl.tensor, w_: tl.tensor, sums_: tl.tensor, scale_: tl.tensor,
    all_: tl.tensor, tops_: tl.tensor, T: tl.tensor, G: tl.tensor, C: tl.tensor, WRITE: tl.constexpr,
    ONES: tl.constexpr, Q: tl.constexpr, W: tl.constexpr, NONE: tl.constexpr,
) -> None:  # fmt: skip
    """Run through a chunk in one direction, program (batch, channels, chunk and direction).

    Without WRITE from nothing, and store what leaves the chunk; with it from what comes in, and store the sums that
    each token finds. ONES: the second value is 1.
    """
    batch, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * W + tl.arange(0, W)
    g, back = tl.program_id(2) % G, tl.program_id(2) // G
    number, inside = tl.num_programs(0), channel < C
    w = tl.load(w_ + channel, mask=inside, other=0)
    edge, edges = ((back * number + batch) * G + g) * C + channel, 2 * number * G * C
    a, b, scale = tl.zeros((W,), tl.float32), tl.zeros((W,), tl.float32), tl.full((W,), NONE, tl.float32)
    if WRITE:
        a, b = tl.load(sums_ + edge, mask=inside, other=0), tl.load(sums_ + edges + edge, mask=inside, other=0)
        scale = tl.load(scale_ + edge, mask=inside, other=0)
    for step in range(Q):
        t = g * Q + tl.where(back == 1, Q - 1 - step, step)
        here = channel < tl.where(t < T, C, 0)
        place = (batch * T + t) * C + channel
        if WRITE:
            out, outs = ((back * number + batch) * T + t) * C + channel, 2 * number * T * C
            tl.store(all_ + out, a, mask=here)
            tl.store(all_ + outs + out, b, mask=here)
            tl.store(tops_ + out, scale, mask=here)
        key = tl.load(key_ + place, mask=here, other=0).to(tl.float32)
        first = tl.load(first_ + place, mask=here, other=0).to(tl.float32)
        second = tl.full((W,), 1, tl.float32)
        if not ONES:
            second = tl.load(second_ + place, mask=here, other=0).to(tl.float32)
        x, y, top = _step(a, b, scale, key, first, second, w)
        a, b, scale = tl.where(here, x, a), tl.where(here, y, b), tl.where(here, top, scale)
    if not WRITE:
        tl.store(sums_ + edge, a, mask=inside)
        tl.store(sums_ + edges + edge, b, mask=inside)
        tl.store(scale_ + edge, scale, mask=inside)


@triton.jit
def _carry(
    w_: tl.tensor, sums_: tl.tensor, scale_: tl.tensor, T: tl.tensor, G: tl.tensor, C: tl.tensor, Q: tl.constexpr,
    W: tl.constexpr, NONE: tl.constexpr,
) -> None:  # fmt: skip
    """Turn what leaves each chunk alone into what comes into it, program (batch, channels, direction)."""
    batch, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * W + tl.arange(0, W)
    back, number, inside = tl.program_id(2), tl.num_programs(0), channel < C
    w, edges = tl.load(w_ + channel, mask=inside, other=0), 2 * number * G * C
    a, b, scale = tl.zeros((W,), tl.float32), tl.zeros((W,), tl.float32), tl.full((W,), NONE, tl.float32)
    for step in range(G):
        g = tl.where(back == 1, G - 1 - step, step)
        edge = ((back * number + batch) * G + g) * C + channel
        x, y = tl.load(sums_ + edge, mask=inside, other=0), tl.load(sums_ + edges + edge, mask=inside, other=0)
        top = tl.load(scale_ + edge, mask=inside, other=0)
        tl.store(sums_ + edge, a, mask=inside)
        tl.store(sums_ + edges + edge, b, mask=inside)
        tl.store(scale_ + edge, scale, mask=inside)
        fade = w * tl.minimum(Q, T - g * Q).to(tl.float32)
        most = tl.maximum(scale - fade, top)
        keep, take = tl.exp(scale - fade - most), tl.exp(top - most)
        a, b, scale = a * keep + take * x, b * keep + take * y, most


def sides(key: Tensor, values: tuple[Tensor, Tensor | None], w: Tensor, chunk: int = CHUNK) -> Sides:
    """Sums of exp(key - w distance) times each of two values (None is 1); chunks [B, T, 1, C] of one token.

    `chunk` tokens are run through by one program.
    """
    first, second = (None if t is None else t.squeeze(2).contiguous() for t in values)
    key, w = key.squeeze(2).contiguous(), w.contiguous()
    batch, tokens, channels = key.shape
    groups, tiles = triton.cdiv(tokens, chunk), triton.cdiv(channels, CHANNELS)
    ends, tops = key.new_empty(2, 2, batch, groups, channels), key.new_empty(2, batch, groups, channels)
    sums, scales = key.new_empty(2, 2, batch, tokens, channels), key.new_empty(2, batch, tokens, channels)
    given = (key, first, first if second is None else second, w, ends, tops, sums, scales, tokens, groups, channels)
    meta = {"Q": chunk, "W": CHANNELS, "NONE": NONE, "num_warps": 1}
    _run[(batch, tiles, 2 * groups)](*given, WRITE=False, ONES=second is None, **meta)
    _carry[(batch, tiles, 2)](w, ends, tops, tokens, groups, channels, **meta)
    _run[(batch, tiles, 2 * groups)](*given, WRITE=True, ONES=second is None, **meta)
    before, after = sums[:, 0].unsqueeze(3), sums[:, 1].unsqueeze(3)
    return Sides(before, after, (scales[0].unsqueeze(2), scales[1].unsqueeze(2)))
