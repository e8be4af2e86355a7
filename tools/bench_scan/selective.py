"""Rows of the Mamba-1 scan: one image, 192 channels, 16 states, one group."""

from __future__ import annotations

import argparse

import peers
import torch
import torch.nn.functional as F
from timing import Case, Row, Scan
from torch import Tensor

from unetkit.blocks.scan import selective_scan

CHANNELS, STATES = 192, 16


def case(length: int, options: argparse.Namespace) -> Case:
    """Make the inputs u, delta (after softplus), A, B, C, D of a length, and list the rows."""
    u, delta = (torch.randn(1, CHANNELS, length) for _ in range(2))
    B, C = (torch.randn(1, STATES, length) for _ in range(2))
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    inputs = [u, F.softplus(delta - 2), A, B, C, torch.ones(CHANNELS)]
    rows = [
        Row("unetkit", lambda: selective_scan),
        Row("loop over slices", lambda: slices),
        Row("loop over unbind", lambda: unbind),
        Row("mamba-ssm selective_scan_ref", lambda: reference(options)),
        Row("VMamba selective_scan_torch", lambda: vmamba(options)),
        Row("mamba.py pscan", lambda: pscan(options)),
    ]
    if options.device == "cuda":
        rows.append(Row("mamba-ssm CUDA", cuda))
        rows.append(Row("unetkit torch", lambda: lambda *x: selective_scan(*x, backend="torch")))
    return Case(
        f"selective_scan, {CHANNELS} channels, {STATES} states",
        [t.to(options.device).requires_grad_() for t in inputs],
        rows,
    )


def slices(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence by autograd over indexed slices, as in the fallbacks of the references."""
    decay = torch.exp(delta.transpose(1, 2)[..., None] * A)  # [B, L, D, N]
    new = (delta * u).transpose(1, 2)[..., None] * B.transpose(1, 2)[:, :, None]
    h, out = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[-1]):
        h = decay[:, t] * h + new[:, t]
        out.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(out, -1) + D[:, None] * u


def unbind(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence by autograd with one `unbind`, whose backward is not quadratic."""
    decay = torch.exp(delta.transpose(1, 2)[..., None] * A)
    new = (delta * u).transpose(1, 2)[..., None] * B.transpose(1, 2)[:, :, None]
    h, states = torch.zeros_like(decay[:, 0]), []
    for a, x in zip(decay.unbind(1), new.unbind(1), strict=True):
        h = torch.addcmul(x, a, h)
        states.append(h)
    return torch.einsum("bldn,bnl->bdl", torch.stack(states, 1), C) + D[:, None] * u


def reference(options: argparse.Namespace) -> Scan:
    """The pure torch reference of mamba-ssm."""
    return peers.functions(peers.find(options.peers, "selective_scan_interface.py", "mamba_ssm"), "selective_scan_ref")


def vmamba(options: argparse.Namespace) -> Scan:
    """The pure torch fallback of VMamba."""
    scan = peers.functions(peers.find(options.peers, "csms6s.py"), "selective_scan_torch")
    return lambda u, delta, A, B, C, D: scan(u, delta, A, B[:, None], C[:, None], D, None, False)


def pscan(options: argparse.Namespace) -> Scan:
    """The parallel scan of mamba.py, with the products that its Mamba block puts around it."""
    scan = peers.module(options.peers, "pscan.py", "mambapy.pscan", "mambapy").pscan

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        step, x = delta.transpose(1, 2)[..., None], u.transpose(1, 2)
        states = scan(torch.exp(step * A), step * B.transpose(1, 2)[:, :, None] * x[..., None])
        return ((states @ C.transpose(1, 2)[..., None])[..., 0] + D * x).transpose(1, 2)

    return run


def cuda() -> Scan:
    """The CUDA kernel of mamba-ssm."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn
