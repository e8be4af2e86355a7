"""Rows of the mLSTM: one image, 4 heads of 96."""

from __future__ import annotations

import argparse
import importlib

import peers
import torch
import torch.nn.functional as F
from timing import Case, Row, Scan
from torch import Tensor

from unetkit.blocks.scan import mlstm

HEADS, WIDTH = 4, 96


def case(length: int, options: argparse.Namespace) -> Case:
    """Make the inputs q, k, v and the gates i, f of a length, and list the rows."""
    inputs = [torch.randn(1, HEADS, length, WIDTH) for _ in range(3)]
    inputs += [torch.randn(1, HEADS, length), torch.randn(1, HEADS, length) + 3]
    rows = [
        Row("unetkit", lambda: mlstm),
        Row("parallel form", lambda: all_pairs),
        Row("vision-lstm parallel", lambda: reference(options)),
        Row("mlstm-kernels native, autograd", lambda: package("native", "mlstm_chunkwise__native_autograd")),
        Row("mlstm-kernels native, own backward", lambda: package("native", "mlstm_chunkwise__native_custbw")),
    ]
    if options.device == "cuda":
        rows.append(Row("mlstm-kernels Triton limit", lambda: triton("mlstm_chunkwise__limit_chunk", 64)))
        rows.append(Row("mlstm-kernels Triton TFLA", lambda: triton("mlstm_chunkwise__xl_chunk", 128)))
        rows.append(Row("unetkit torch", lambda: lambda *x: mlstm(*x, backend="torch")))
    return Case(f"mlstm, {HEADS} heads of {WIDTH}", [t.to(options.device).requires_grad_() for t in inputs], rows)


def all_pairs(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The mLSTM over all pairs of tokens: what most public vision code runs."""
    total = F.logsigmoid(f).cumsum(-1)
    log = total[..., :, None] - total[..., None, :] + i[..., None, :]
    log = log.masked_fill(torch.ones(log.shape[-2:], dtype=torch.bool, device=log.device).triu(1), -torch.inf)
    m = log.amax(-1, keepdim=True)
    weight = (q @ k.mT) * q.shape[-1] ** -0.5 * torch.exp(log - m)
    return weight @ v / (torch.maximum(weight.sum(-1, keepdim=True).abs(), torch.exp(-m)) + 1e-6)


def reference(options: argparse.Namespace) -> Scan:
    """The parallel form in the published code of Vision-LSTM, which xLSTM-UNet and ViLU-Net copy."""
    scan = peers.functions(peers.find(options.peers, "vision_lstm.py"), "parallel_stabilized_simple")
    return lambda q, k, v, i, f: scan(q, k, v, i[..., None], f[..., None])


def package(module: str, name: str) -> Scan:
    """A function of mlstm-kernels."""
    return getattr(importlib.import_module(f"mlstm_kernels.torch.chunkwise.{module}"), name)


def triton(name: str, chunk: int) -> Scan:
    """A Triton kernel of mlstm-kernels, its heads as wide as it has tiles for; k keeps its scale."""
    scan = getattr(importlib.import_module("mlstm_kernels.torch.chunkwise"), name)
    missing, scale = 128 - WIDTH, (128 / WIDTH) ** 0.5

    def run(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        q, k, v = (F.pad(t, (0, missing)) for t in (q, scale * k, v))
        return scan(q, k, v, i, f, chunk_size=chunk)[..., :WIDTH]

    return run
