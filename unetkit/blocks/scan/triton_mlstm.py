"""The chunked mLSTM as Triton kernels: the algorithm of torch_mlstm, one program a chunk or a tile of the memory.

Tested with Triton's interpreter; not measured on a GPU. Letters of shapes: N rows (batch times heads), S tokens, G
chunks of Q tokens, d and e the widths of keys and values, D and E their tiles.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Launch = dict[str, Any]


@triton.jit
def _larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return tl.maximum(a, b)


@triton.jit
def _gates(
    i_: tl.tensor, f_: tl.tensor, b_: tl.tensor, c_: tl.tensor, top_: tl.tensor, m_: tl.tensor, S: tl.tensor,
    G: tl.tensor, Q: tl.constexpr,
) -> None:  # fmt: skip
    """Sums of log gates within chunks, and the running maxima, one program a row."""
    row = tl.program_id(0)
    at = tl.arange(0, Q)
    m = -float("inf")
    for g in range(G):
        place, inside = row * S + g * Q + at, g * Q + at < S
        f = tl.load(f_ + place, mask=inside, other=0).to(tl.float32)
        log = tl.where(inside, tl.minimum(f, 0) - tl.log(1 + tl.exp(-tl.abs(f))), 0)
        b = tl.cumsum(log, 0)
        c = tl.load(i_ + place, mask=inside, other=-float("inf")).to(tl.float32) - b
        tl.store(b_ + place, b, mask=inside)
        tl.store(c_ + place, c, mask=inside)
        tl.store(top_ + place, tl.maximum(tl.associative_scan(c, 0, _larger), m), mask=inside)
        tl.store(m_ + row * G + g, m)
        m = tl.sum(log, 0) + tl.maximum(tl.max(c, 0), m)


@triton.jit
def _tile(ptr: tl.tensor, first: tl.tensor, second: tl.tensor, rows: tl.tensor, columns: tl.tensor) -> tl.tensor:
    """Load a tile [len(first), len(second)] of a matrix of rows and columns, zero outside."""
    inside = (first < rows)[:, None] & (second < columns)[None, :]
    return tl.load(ptr + first[:, None] * columns + second[None, :], mask=inside, other=0)


@triton.jit
def _put(
    ptr: tl.tensor, tile: tl.tensor, first: tl.tensor, second: tl.tensor, rows: tl.tensor, columns: tl.tensor,
) -> None:  # fmt: skip
    """Store a tile of a matrix."""
    inside = (first < rows)[:, None] & (second < columns)[None, :]
    tl.store(ptr + first[:, None] * columns + second[None, :], tile, mask=inside)


@triton.jit
def _memories(
    k_: tl.tensor, v_: tl.tensor, c_: tl.tensor, m_: tl.tensor, C_: tl.tensor, n_: tl.tensor, S: tl.tensor,
    G: tl.tensor, d: tl.tensor, e: tl.tensor, Q: tl.constexpr, D: tl.constexpr, E: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """C and n before each chunk, one program a row and tile of C."""
    row, width = tl.program_id(0), tl.rsqrt(d * 1.0)
    keys, values, at = tl.program_id(1) * D + tl.arange(0, D), tl.program_id(2) * E + tl.arange(0, E), tl.arange(0, Q)
    C, n = tl.zeros((D, E), tl.float32), tl.zeros((D,), tl.float32)
    for g in range(G):
        _put(C_ + (row * G + g).to(tl.int64) * d * e, C, keys, values, d, e)
        tl.store(n_ + (row * G + g) * d + keys, n, mask=keys < tl.where(tl.program_id(2) == 0, d, 0))
        t = g * Q + at
        c, m = tl.load(c_ + row * S + t, mask=t < S, other=-float("inf")), tl.load(m_ + row * G + g)
        last = tl.maximum(tl.max(c, 0), m)
        v = _tile(v_ + row.to(tl.int64) * S * e, t, values, S, e)
        k = _tile(k_ + row.to(tl.int64) * S * d, t, keys, S, d) * (tl.exp(c - last) * width)[:, None]
        C = C * tl.exp(m - last) + tl.dot(tl.trans(k).to(v.dtype), v, input_precision=P)
        n = n * tl.exp(m - last) + tl.sum(k, 0)


@triton.jit
def _scores(
    q_: tl.tensor, k_: tl.tensor, c: tl.tensor, top: tl.tensor, t: tl.tensor, S: tl.tensor, d: tl.tensor,
    Q: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
) -> tuple:  # fmt: skip
    """Gates' weights [Q, Q] of a chunk, and times q k / sqrt(d)."""
    scores = tl.zeros((Q, Q), tl.float32)
    for start in range(0, d, D):
        keys = start + tl.arange(0, D)
        scores += tl.dot(_tile(q_, t, keys, S, d), tl.trans(_tile(k_, t, keys, S, d)), input_precision=P)
    at = tl.arange(0, Q)
    # masked before exp, as later tokens can have a positive exponent of any size
    gate = tl.exp(tl.where(at[:, None] >= at[None, :], c[None, :] - top[:, None], -float("inf")))
    return gate, scores * gate * tl.rsqrt(d * 1.0)


@triton.jit
def _weights(
    q_: tl.tensor, k_: tl.tensor, b_: tl.tensor, c_: tl.tensor, top_: tl.tensor, m_: tl.tensor, n_: tl.tensor,
    S: tl.tensor, G: tl.tensor, d: tl.tensor, eps: tl.tensor, Q: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
) -> tuple:  # fmt: skip
    """Of the chunk of this program: gates, weights [Q, Q], weight of the memory [Q], denominator, sign of n q or 0."""
    row, g = tl.program_id(0) // G, tl.program_id(0) % G
    t, far = g * Q + tl.arange(0, Q), row.to(tl.int64) * S
    c = tl.load(c_ + far + t, mask=t < S, other=-float("inf"))
    top = tl.load(top_ + far + t, mask=t < S, other=0)
    old = tl.exp(tl.load(m_ + tl.program_id(0)) - top)
    gate, weight = _scores(q_ + far * d, k_ + far * d, c, top, t, S, d, Q, D, P)
    asked = tl.zeros((Q,), tl.float32)
    for start in range(0, d, D):
        keys = start + tl.arange(0, D)
        n = tl.load(n_ + tl.program_id(0) * d + keys, mask=keys < d, other=0)
        asked += tl.sum(_tile(q_ + far * d, t, keys, S, d) * n[None, :], 1)
    total = tl.sum(weight, 1) + asked * old
    floor = tl.exp(-tl.load(b_ + far + t, mask=t < S, other=0) - top)
    sign = tl.where(tl.abs(total) > floor, tl.where(total > 0, 1.0, -1.0), 0.0)
    return gate, weight, old, tl.maximum(tl.abs(total), floor) + eps, sign


@triton.jit
def _outputs(
    q_: tl.tensor, k_: tl.tensor, v_: tl.tensor, b_: tl.tensor, c_: tl.tensor, top_: tl.tensor, m_: tl.tensor,
    C_: tl.tensor, n_: tl.tensor, h_: tl.tensor, S: tl.tensor, G: tl.tensor, d: tl.tensor, e: tl.tensor,
    eps: tl.tensor, Q: tl.constexpr, D: tl.constexpr, E: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """h of a chunk and tile of values."""
    row, g = tl.program_id(0) // G, tl.program_id(0) % G
    t, values = g * Q + tl.arange(0, Q), tl.program_id(1) * E + tl.arange(0, E)
    far = row.to(tl.int64) * S
    _, weight, old, below, _ = _weights(q_, k_, b_, c_, top_, m_, n_, S, G, d, eps, Q, D, P)
    v = _tile(v_ + far * e, t, values, S, e)
    h = tl.dot(weight.to(v.dtype), v, input_precision=P)
    for start in range(0, d, D):
        keys = start + tl.arange(0, D)
        q = _tile(q_ + far * d, t, keys, S, d)
        C = _tile(C_ + tl.program_id(0).to(tl.int64) * d * e, keys, values, d, e)
        h += tl.dot((q * old[:, None]).to(q.dtype), C.to(q.dtype), input_precision=P)
    _put(h_ + far * e, h / below[:, None], t, values, S, e)


@triton.jit
def _slopes(
    q_: tl.tensor, k_: tl.tensor, b_: tl.tensor, c_: tl.tensor, top_: tl.tensor, m_: tl.tensor, n_: tl.tensor,
    grad_: tl.tensor, h_: tl.tensor, share_: tl.tensor, down_: tl.tensor, S: tl.tensor, G: tl.tensor, d: tl.tensor,
    e: tl.tensor, eps: tl.tensor, Q: tl.constexpr, D: tl.constexpr, E: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """1 / denominator, and the gradient of n q, of each token of a chunk."""
    row, g = tl.program_id(0) // G, tl.program_id(0) % G
    t, far = g * Q + tl.arange(0, Q), row.to(tl.int64) * S
    _, _, _, below, sign = _weights(q_, k_, b_, c_, top_, m_, n_, S, G, d, eps, Q, D, P)
    along = tl.zeros((Q,), tl.float32)
    for start in range(0, e, E):
        values = start + tl.arange(0, E)
        along += tl.sum(_tile(grad_ + far * e, t, values, S, e) * _tile(h_ + far * e, t, values, S, e), 1)
    tl.store(share_ + far + t, 1 / below, mask=t < S)
    tl.store(down_ + far + t, -sign * along / below, mask=t < S)


@triton.jit
def _memory_gradients(
    q_: tl.tensor, grad_: tl.tensor, share_: tl.tensor, down_: tl.tensor, c_: tl.tensor, top_: tl.tensor,
    m_: tl.tensor, C_: tl.tensor, n_: tl.tensor, dC_: tl.tensor, dn_: tl.tensor, kept_: tl.tensor, S: tl.tensor,
    G: tl.tensor, d: tl.tensor, e: tl.tensor, Q: tl.constexpr, D: tl.constexpr, E: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of C and n after each chunk, and of the log of what is kept of them, one program a row and tile."""
    row, first, second = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    keys, values, at = first * D + tl.arange(0, D), second * E + tl.arange(0, E), tl.arange(0, Q)
    tiles, far = tl.num_programs(1) * tl.num_programs(2), row.to(tl.int64) * S
    dC, dn = tl.zeros((D, E), tl.float32), tl.zeros((D,), tl.float32)
    for step in range(G):
        chunk = row * G + G - 1 - step
        t = (G - 1 - step) * Q + at
        once = keys < tl.where(second == 0, d, 0)
        _put(dC_ + chunk.to(tl.int64) * d * e, dC, keys, values, d, e)
        tl.store(dn_ + chunk * d + keys, dn, mask=once)
        c, m = tl.load(c_ + far + t, mask=t < S, other=-float("inf")), tl.load(m_ + chunk)
        keep = tl.exp(m - tl.maximum(tl.max(c, 0), m))
        C = _tile(C_ + chunk.to(tl.int64) * d * e, keys, values, d, e)
        n = tl.load(n_ + chunk * d + keys, mask=once, other=0)
        kept = (tl.sum(tl.sum(dC * C, 1), 0) + tl.sum(dn * n, 0)) * keep
        tl.store(kept_ + chunk * tiles + first * tl.num_programs(2) + second, kept)
        old = tl.exp(m - tl.load(top_ + far + t, mask=t < S, other=0))
        q = _tile(q_ + far * d, t, keys, S, d)
        asked = q * old[:, None]
        share, down = (tl.load(share_ + far + t, mask=t < S, other=0), tl.load(down_ + far + t, mask=t < S, other=0))
        up = _tile(grad_ + far * e, t, values, S, e) * share[:, None]
        dC = dC * keep + tl.dot(tl.trans(asked).to(q.dtype), up.to(q.dtype), input_precision=P)
        dn = dn * keep + tl.sum(asked * down[:, None], 0)


@triton.jit
def _token_gradients(
    q_: tl.tensor, k_: tl.tensor, v_: tl.tensor, f_: tl.tensor, grad_: tl.tensor, share_: tl.tensor,
    down_: tl.tensor, c_: tl.tensor, top_: tl.tensor, m_: tl.tensor, C_: tl.tensor, n_: tl.tensor, dC_: tl.tensor,
    dn_: tl.tensor, kept_: tl.tensor, dq_: tl.tensor, dk_: tl.tensor, dv_: tl.tensor, di_: tl.tensor,
    df_: tl.tensor, S: tl.tensor, G: tl.tensor, d: tl.tensor, e: tl.tensor, Q: tl.constexpr, D: tl.constexpr,
    E: tl.constexpr, P: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of q, k, v and the gates of a chunk."""
    chunk = tl.program_id(0)
    g, far, place = chunk % G, (chunk // G).to(tl.int64) * S, chunk.to(tl.int64) * d * e
    t, width = g * Q + tl.arange(0, Q), tl.rsqrt(d * 1.0)
    q_, k_, v_, grad_ = q_ + far * d, k_ + far * d, v_ + far * e, grad_ + far * e
    c, m = tl.load(c_ + far + t, mask=t < S, other=-float("inf")), tl.load(m_ + chunk)
    top = tl.load(top_ + far + t, mask=t < S, other=0)
    share, down = (tl.load(share_ + far + t, mask=t < S, other=0), tl.load(down_ + far + t, mask=t < S, other=0))
    old, take = tl.exp(m - top), tl.exp(c - tl.maximum(tl.max(c, 0), m)) * width
    gate, weight = _scores(q_, k_, c, top, t, S, d, Q, D, P)
    slope = tl.zeros((Q, Q), tl.float32) + down[:, None]  # of the weights
    for start in range(0, e, E):
        values = start + tl.arange(0, E)
        v, up = _tile(v_, t, values, S, e), _tile(grad_, t, values, S, e) * share[:, None]
        slope += tl.dot(up.to(v.dtype), tl.trans(v), input_precision=P)
        dv = tl.dot(tl.trans(weight).to(v.dtype), up.to(v.dtype), input_precision=P)
        for other in range(0, d, D):
            keys = other + tl.arange(0, D)
            k, dC = _tile(k_, t, keys, S, d), _tile(dC_ + place, keys, values, d, e)
            dv += tl.dot((k * take[:, None]).to(k.dtype), dC.to(k.dtype), input_precision=P)
        _put(dv_ + far * e, dv, t, values, S, e)
    logs, slope = weight * slope, slope * gate * width
    read, written = tl.zeros((Q,), tl.float32), tl.zeros((Q,), tl.float32)
    for start in range(0, d, D):
        keys = start + tl.arange(0, D)
        q, k = _tile(q_, t, keys, S, d), _tile(k_, t, keys, S, d)
        n = tl.load(n_ + chunk * d + keys, mask=keys < d, other=0)
        dn = tl.load(dn_ + chunk * d + keys, mask=keys < d, other=0)
        dq, dk = down[:, None] * n[None, :], tl.zeros((Q, D), tl.float32) + dn[None, :]
        for other in range(0, e, E):
            values = other + tl.arange(0, E)
            up, v = _tile(grad_, t, values, S, e) * share[:, None], _tile(v_, t, values, S, e)
            C, dC = _tile(C_ + place, keys, values, d, e), _tile(dC_ + place, keys, values, d, e)
            dq += tl.dot(up.to(v.dtype), tl.trans(C).to(v.dtype), input_precision=P)
            dk += tl.dot(v, tl.trans(dC).to(v.dtype), input_precision=P)
        dq, dk = dq * old[:, None], dk * take[:, None]
        read += tl.sum(dq * q, 1)
        written += tl.sum(dk * k, 1)
        dq += tl.dot(slope.to(k.dtype), k, input_precision=P)
        dk += tl.dot(tl.trans(slope).to(q.dtype), q, input_precision=P)
        _put(dq_ + far * d, dq, t, keys, S, d)
        _put(dk_ + far * d, dk, t, keys, S, d)
    sent = tl.sum(logs, 0)
    forget = tl.cumsum(tl.sum(logs, 1) - sent + read, 0, reverse=True) + tl.cumsum(written, 0) - written
    f = tl.load(f_ + far + t, mask=t < S, other=0).to(tl.float32)
    tl.store(di_ + far + t, sent + written, mask=t < S)
    tl.store(df_ + far + t, (forget + tl.load(kept_ + chunk)) / (1 + tl.exp(f)), mask=t < S)


def forward(rows: tuple[Tensor, ...], chunk: int, eps: float) -> Tensor:
    """Return h [N, S, e] in fp32 of rows (q, k [N, S, d], v [N, S, e], i, f [N, S])."""
    rows = tuple(t.contiguous() for t in rows)
    sizes, meta = _shape(rows, chunk)
    gates, C, n = _state(rows, sizes, meta)
    h = rows[2].new_empty(rows[2].shape, dtype=torch.float32)
    grid = (len(h) * sizes[1], triton.cdiv(sizes[3], meta["E"]))
    _outputs[grid](*rows[:3], *gates, C, n, h, *sizes, eps, **meta)
    return h


def backward(grad: Tensor, h: Tensor, rows: tuple[Tensor, ...], chunk: int, eps: float) -> list[Tensor]:
    """Return the gradients of the rows that `forward` took, given that of h."""
    rows, grad = tuple(t.contiguous() for t in rows), grad.contiguous()
    sizes, meta = _shape(rows, chunk)
    _, groups, width, out = sizes
    (b, c, top, m), C, n = _state(rows, sizes, meta)
    share, down = torch.empty_like(b), torch.empty_like(b)
    chunks = (len(h) * groups,)
    _slopes[chunks](*rows[:2], b, c, top, m, n, grad, h, share, down, *sizes, eps, **meta)
    dC, dn = torch.empty_like(C), torch.empty_like(n)
    grid = (len(h), triton.cdiv(width, meta["D"]), triton.cdiv(out, meta["E"]))
    kept = b.new_empty(len(h), groups, grid[1] * grid[2])
    _memory_gradients[grid](rows[0], grad, share, down, c, top, m, C, n, dC, dn, kept, *sizes, **meta)
    grads = [torch.empty_like(t) for t in rows]
    known = (grad, share, down, c, top, m, C, n, dC, dn, kept.sum(-1))
    _token_gradients[chunks](*rows[:3], rows[4], *known, *grads, *sizes, **meta)
    return grads


def _shape(rows: tuple[Tensor, ...], chunk: int) -> tuple[tuple[int, int, int, int], Launch]:
    """(S, G, d, e), and the sizes of tiles; a chunk is a power of 2 here, 16 to 64 tokens, as products need."""
    tokens, width, out = *rows[0].shape[1:], rows[2].shape[2]
    size = min(max(triton.next_power_of_2(min(chunk, tokens)), 16), 64)
    most = 32 if rows[0].element_size() == 4 else 64  # so that the tiles of a program fit the smaller cards too
    tiles = {name: min(max(triton.next_power_of_2(w), 16), most) for name, w in (("D", width), ("E", out))}
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return (tokens, triton.cdiv(tokens, size), width, out), {"Q": size, **tiles, "P": precision, "num_stages": 1}


def _state(
    rows: tuple[Tensor, ...], sizes: tuple[int, int, int, int], meta: Launch
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """b, c, top [N, S] and m [N, G] of the gates; C [N, G, d, e] and n [N, G, d] before each chunk."""
    tokens, groups, width, out = sizes
    number = len(rows[0])
    b, c, top = (rows[3].new_empty(number, tokens, dtype=torch.float32) for _ in range(3))
    m = b.new_empty(number, groups)
    _gates[(number,)](rows[3], rows[4], b, c, top, m, tokens, groups, Q=meta["Q"])
    C, n = b.new_empty(number, groups, width, out), b.new_empty(number, groups, width)
    grid = (number, triton.cdiv(width, meta["D"]), triton.cdiv(out, meta["E"]))
    _memories[grid](*rows[1:3], c, m, C, n, *sizes, **meta)
    return (b, c, top, m), C, n
