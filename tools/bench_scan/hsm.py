"""Rows of the hidden-state mixer: one image, 192 channels, 49 states, without what mixes the states."""

from __future__ import annotations

import argparse

import torch
from timing import Case, Row
from torch import Tensor

from unetkit.blocks.scan import hsm_ssd

CHANNELS, STATES = 192, 49


def case(length: int, options: argparse.Namespace) -> Case:
    """Make the inputs x, B, C, dt, a of a length, and list the rows."""
    inputs = [torch.randn(1, CHANNELS, length), *(torch.randn(1, STATES, length) for _ in range(3)), torch.rand(STATES)]
    rows = [Row("unetkit", lambda: lambda *t: hsm_ssd(*t)[0]), Row("as published, autograd", lambda: plain)]
    title = f"hsm_ssd, {CHANNELS} channels, {STATES} states"
    return Case(title, [t.to(options.device).requires_grad_() for t in inputs], rows)


def plain(x: Tensor, B: Tensor, C: Tensor, dt: Tensor, a: Tensor) -> Tensor:
    """The two products and the softmax through autograd."""
    return x @ (torch.softmax(dt + a[:, None], -1) * B).mT @ C
