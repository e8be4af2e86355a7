"""All operators in halves under autocast at gates that forget all or nothing, against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unetkit.blocks.scan import bi_wkv, hsm_ssd, mlstm, oracle, selective_scan, ssd

LENGTH = 67
HALVES = (torch.bfloat16, torch.float16)


def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw normal numbers of these shapes."""
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def check(
    scan: Callable[..., Tensor],
    truth: Callable[..., Tensor],
    given: list[Tensor],
    half: torch.dtype,
    close: float = 0.02,
) -> None:
    """Compare with the truth on the same rounded tokens; gradients must be finite and as wide as their inputs.

    Parameters (of fewer axes than tokens) are fp32 as in training: their gradients are sums over tokens.
    """
    leaves = [(t.to(half) if t.ndim > 2 else t).requires_grad_() for t in given]
    assert all(t.isfinite().all() for t in leaves)
    with torch.autocast("cpu", half):
        y = scan(*leaves)
    assert y.dtype == half
    want = truth(*(t.detach() for t in leaves))
    assert (y.double() - want).abs().max() <= close * (1 + want.abs().max())
    grads = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert [g.dtype for g in grads] == [t.dtype for t in leaves]
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rate", [-1e-3, -16.0, -256.0])
@pytest.mark.parametrize("step", [1e-4, 1.0, 50.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_selective_scan(half: torch.dtype, rate: float, step: float, reverse: bool) -> None:
    u, delta, B, C, z = draw((1, 4, LENGTH), (1, 4, LENGTH), (1, 3, LENGTH), (1, 3, LENGTH), (1, 4, LENGTH))
    # what remembers everything adds up: the steps are short enough for the sum to stay within fp16
    given = [u, step * delta.sigmoid(), torch.full((4, 3), rate), B, C, torch.ones(4), z]
    options: dict[str, Any] = {"reverse": reverse}
    check(lambda *t: selective_scan(*t, **options), lambda *t: oracle.selective_scan(*t, **options), given, half)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rate", [-1e-3, -16.0, -256.0])
@pytest.mark.parametrize("step", [1e-4, 1.0, 50.0])
def test_ssd(half: torch.dtype, rate: float, step: float) -> None:
    x, dt, B, C = draw((1, LENGTH, 2, 4), (1, LENGTH, 2), (1, LENGTH, 1, 3), (1, LENGTH, 1, 3))
    given = [x, step * dt.sigmoid(), torch.full((2,), rate), B, C, torch.ones(2)]
    check(lambda *t: ssd(*t, chunk=16), oracle.ssd, given, half)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("i", [-20.0, 20.0])
@pytest.mark.parametrize("f", [-20.0, 20.0])
def test_mlstm(half: torch.dtype, i: float, f: float) -> None:
    q, k, v, gate_i, gate_f = draw(*((1, 2, LENGTH, 8),) * 3, *((1, 2, LENGTH),) * 2)
    # keys that agree with queries keep the normaliser away from zero, where the quotient has no digits
    given = [q.abs(), k.abs(), v, gate_i + i, gate_f + f]
    check(lambda *t: mlstm(*t, chunk=16), oracle.mlstm, given, half)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("decay", [-2000.0, 0.0, 2000.0])
@pytest.mark.parametrize("loud", [1.0, 1000.0])
def test_bi_wkv(half: torch.dtype, decay: float, loud: float) -> None:
    k, v, shape = draw((1, LENGTH, 4), (1, LENGTH, 4), (4,))
    check(bi_wkv, oracle.bi_wkv, [loud * k, v, decay + shape, 10 * shape], half)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("loud", [1.0, 1000.0])
def test_hsm_ssd(half: torch.dtype, loud: float) -> None:
    x, B, C, dt, a = draw((1, 4, LENGTH), *((1, 3, LENGTH),) * 3, (3,))
    check(lambda *t: hsm_ssd(*t)[0], lambda *t: oracle.hsm_ssd(*t)[0], [x, B, C, loud * dt, a], half)
