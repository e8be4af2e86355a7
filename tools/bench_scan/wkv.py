"""Rows of the bidirectional WKV: one image, 192 channels. Its reference has no fallback beside its CUDA kernel."""

from __future__ import annotations

import argparse

import torch
from timing import Case, Row
from torch import Tensor

from unetkit.blocks.scan import bi_wkv

CHANNELS = 192


def case(length: int, options: argparse.Namespace) -> Case:
    """Make the inputs k, v, decay, first of a length, and list the rows."""
    inputs = [*(torch.randn(1, length, CHANNELS) for _ in range(2)), torch.randn(CHANNELS).abs(), torch.randn(CHANNELS)]
    rows = [Row("unetkit", lambda: bi_wkv), Row("loop over unbind", lambda: loop), Row("all pairs", lambda: all_pairs)]
    if options.device == "cuda":
        rows.append(Row("unetkit torch", lambda: lambda *x: bi_wkv(*x, backend="torch")))
    return Case(f"bi_wkv, {CHANNELS} channels", [t.to(options.device).requires_grad_() for t in inputs], rows)


def all_pairs(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """The formula over all pairs of tokens."""
    tokens, place = k.shape[1], torch.arange(k.shape[1], device=k.device)
    gap = (place[:, None] - place).abs()[..., None]
    log = torch.where(gap == 0, first / tokens, -decay / tokens * (gap - 1))
    return torch.einsum("btic,bic->btc", torch.softmax(log + k[:, None], 2), v)


def loop(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """Two loops over the tokens with running maxima, through autograd."""
    w, keys, values = decay / k.shape[1], k.unbind(1), v.unbind(1)
    ways = [_causal(keys, values, w), [t[::-1] for t in _causal(keys[::-1], values[::-1], w)]]
    (a, b, o), (c, d, p) = ([torch.stack(t, 1) for t in way] for way in ways)
    own = k + first / k.shape[1]
    top = torch.maximum(torch.maximum(o, p), own)
    left, right, here = torch.exp(o - top), torch.exp(p - top), torch.exp(own - top)
    return (left * a + right * c + here * v) / (left * b + right * d + here)


def _causal(keys: tuple[Tensor, ...], values: tuple[Tensor, ...], w: Tensor) -> list[list[Tensor]]:
    """Sums of exp(k) v and exp(k) over the tokens before each, divided by exp of their running maximum."""
    state = (torch.zeros_like(keys[0]), torch.zeros_like(keys[0]), torch.full_like(keys[0], -1e30))
    states = []
    for k, v in zip(keys, values, strict=True):
        states.append(state)
        a, b, o = state
        top = torch.maximum(o - w, k)
        keep, take = torch.exp(o - w - top), torch.exp(k - top)
        state = (keep * a + take * v, keep * b + take, top)
    return [list(t) for t in zip(*states, strict=True)]
