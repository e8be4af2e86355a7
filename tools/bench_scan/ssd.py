"""Rows of the Mamba-2 scan: one image, 6 heads of width 32, 64 states, one group."""

from __future__ import annotations

import argparse

import peers
import torch
import torch.nn.functional as F
from timing import Case, Row, Scan
from torch import Tensor

from unetkit.blocks.scan import ssd

HEADS, WIDTH, STATES, CHUNK = 6, 32, 64, 64


def case(length: int, options: argparse.Namespace) -> Case:
    """Make the inputs x, dt, A, B, C of a length, and list the rows."""
    x, dt = torch.randn(1, length, HEADS, WIDTH), F.softplus(torch.randn(1, length, HEADS) - 2)
    B, C = (torch.randn(1, length, 1, STATES) for _ in range(2))
    inputs = [x, dt, -torch.linspace(1, 16, HEADS), B, C]
    rows = [
        Row("unetkit", lambda: lambda *a: ssd(*a, chunk=CHUNK)),
        Row("loop over unbind", lambda: unbind),
        Row("mamba-ssm ssd_minimal", lambda: minimal(options)),
    ]
    if options.device == "cuda":
        rows.append(Row("mamba-ssm Triton", triton))
        rows.append(Row("unetkit torch", lambda: lambda *a: ssd(*a, chunk=CHUNK, backend="torch")))
    return Case(
        f"ssd, {HEADS} heads of {WIDTH}, {STATES} states",
        [t.to(options.device).requires_grad_() for t in inputs],
        rows,
    )


def unbind(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence by autograd, token after token."""
    decay = torch.exp(dt * A)[..., None, None]
    new = (dt[..., None] * B)[..., None] * x[..., None, :]  # [B, L, H, N, P]
    h, states = torch.zeros_like(new[:, 0]), []
    for a, s in zip(decay.unbind(1), new.unbind(1), strict=True):
        h = torch.addcmul(s, a, h)
        states.append(h)
    return torch.einsum("blhnp,bln->blhp", torch.stack(states, 1), C[:, :, 0])


def minimal(options: argparse.Namespace) -> Scan:
    """The short pure torch form that mamba-ssm shows."""
    path = peers.find(options.peers, "ssd_minimal.py", "mamba_ssm")
    scan = peers.functions(path, "segsum", "ssd_minimal_discrete")

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        wide = (t.expand(-1, -1, HEADS, -1) for t in (B, C))
        return scan(x * dt[..., None], dt * A, *wide, CHUNK)[0]

    return run


def triton() -> Scan:
    """The Triton kernels of mamba-ssm."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return lambda *a: mamba_chunk_scan_combined(*a, chunk_size=256)
