"""The scan of Mamba-2 on every backend that runs here, against the recurrence in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.scan import ssd
from unetkit.errors import ModelError, ShapeError

CHUNK = 16


def inputs(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return x, dt, A, B, C, D for a batch of 2, 4 heads of width 5 in 2 groups, and 3 states."""
    draw = torch.Generator().manual_seed(0)
    shared = (2, length, 2, 3)
    shapes = ((2, length, 4, 5), (2, length, 4), (4,), shared, shared, (4,))
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    drawn[1], drawn[2] = drawn[1].abs(), -4 * drawn[2].abs()
    return [t.to(dtype).requires_grad_() for t in drawn]


def output_and_gradients(given: list[Tensor], backend: str, **options: Any) -> list[Tensor]:
    """Run the scan and differentiate it by everything given."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    y = ssd(*leaves, chunk=CHUNK, backend=backend, **options)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y * weights.to(y.dtype)).sum(), leaves)]


def agree(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    """Compare each tensor relative to its largest value."""
    for a, b in zip(ours, truth, strict=True):
        assert torch.isfinite(a).all()
        assert (a.double() - b.double()).abs().max() <= tolerance * (1 + b.double().abs().max())


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 3])
@pytest.mark.parametrize("count", [5, 6])
def test_equal_to_the_oracle_with_gradients(length: int, count: int) -> None:
    given = inputs(length)[:count]
    agree(output_and_gradients(given, "torch"), output_and_gradients(given, "oracle"), 1e-5)


@pytest.mark.parametrize("rate", [-1e-3, -16.0, -256.0])
@pytest.mark.parametrize("dt", [1e-4, 0.1, 1.0, 50.0])
def test_extreme_gates(rate: float, dt: float) -> None:
    given = inputs(2 * CHUNK + 5)
    given[1] = dt * torch.rand(given[1].shape, generator=torch.Generator().manual_seed(2))
    given[2] = torch.full_like(given[2], rate)
    ours, truth = output_and_gradients(given, "torch"), output_and_gradients(given, "oracle")
    # a gradient by A adds up differences that cancel where everything is forgotten at once
    agree(ours[:3] + ours[4:], truth[:3] + truth[4:], 2e-5)
    assert torch.isfinite(ours[3]).all()


def test_chunk_changes_the_speed_only() -> None:
    given = inputs(40)
    agree([ssd(*given, chunk=8)], [ssd(*given, chunk=64)], 1e-6)


def test_gradcheck() -> None:
    given = inputs(9, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: ssd(*x, chunk=4), given)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_inside(half: torch.dtype) -> None:
    given = inputs(CHUNK + 1)
    with torch.autocast("cpu", half):
        inside = output_and_gradients(given, "torch")
    agree(inside, output_and_gradients(given, "torch"), 0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_inputs_are_scanned_in_fp32(half: torch.dtype) -> None:
    rounded = [t.detach().to(half) if i in (0, 3, 4) else t.detach() for i, t in enumerate(inputs(4 * CHUNK + 3))]
    ours = output_and_gradients(rounded, "torch")
    assert [t.dtype for t in ours[1:]] == [t.dtype for t in rounded]
    assert ours[0].dtype == half
    # what is left is the rounding of the results, and of a weighting in half precision
    agree(ours, output_and_gradients([t.float() for t in rounded], "oracle"), 2e-2)


def test_long_inputs_stay_finite() -> None:
    draw = torch.Generator().manual_seed(0)
    x, B, C = (torch.randn(1, 65536, 1, 4, generator=draw, requires_grad=True) for _ in range(3))
    y = ssd(x, torch.rand(1, 65536, 1, generator=draw), torch.tensor([-0.01]), B, C)
    y.sum().backward()
    assert all(torch.isfinite(t).all() for t in (y, x.grad, B.grad, C.grad))


def test_compiles_as_one_graph() -> None:
    given = inputs(CHUNK + 1)
    compiled = torch.compile(lambda *x: 2 * ssd(*x), fullgraph=True, backend="aot_eager")
    expected, y = 2 * ssd(*given), compiled(*given)
    assert torch.equal(y, expected)
    ours, truth = (torch.autograd.grad(t.square().sum(), given) for t in (y, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))


@pytest.mark.parametrize("skip", [True, False])
def test_the_operator_keeps_torchs_rules(skip: bool) -> None:
    given = inputs(CHUNK + 1)
    given[5] = given[5] if skip else None
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.unetkit.ssd.default, (*given, CHUNK, "torch", True), test_utils=tests)


def test_flops_are_counted() -> None:
    given = [t.detach() for t in inputs(64)]
    with FlopCounterMode(display=False) as counter:
        ssd(*given, chunk=CHUNK)
    # both products within chunks and both with the state, for every token and head
    assert counter.get_total_flops() == 2 * 64 * 4 * (2 * CHUNK * (3 + 5) + 4 * 3 * 5)


def test_fake_tensors_have_the_shapes_of_real_ones() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        given = [torch.empty(t.shape, dtype=torch.bfloat16, requires_grad=True) for t in inputs(50)]
        y = ssd(*given)
        ahead = counter.get_total_flops()
        y.sum().backward()
    # each product has two more, one for each of its factors
    assert counter.get_total_flops() == 3 * ahead
    assert (y.shape, y.dtype) == ((2, 50, 4, 5), torch.bfloat16)
    assert all(t.grad.shape == t.shape for t in given)


def test_second_derivative_is_refused() -> None:
    given = inputs(5)
    (first,) = torch.autograd.grad(ssd(*given).sum(), given[:1], create_graph=True)
    with pytest.raises(ModelError, match="no second derivative; use backend='oracle'"):
        first.sum().backward()


def test_refuses_what_does_not_fit() -> None:
    x, dt, A, B, C, _ = inputs(5)
    with pytest.raises(ShapeError, match=r"dt \[2, 4, 4\]; beside its x and B it must be \[2, 5, 4\]"):
        ssd(x, dt[:, :4], A, B, C)
    with pytest.raises(ShapeError, match="4 heads for 3 groups"):
        ssd(x, dt, A, B[:, :, :1].repeat(1, 1, 3, 1), C)
    with pytest.raises(ShapeError, match="chunks of 0 tokens; give at least 1"):
        ssd(x, dt, A, B, C, chunk=0)
    with pytest.raises(ShapeError, match=r"x \[2, 5, 20\]"):
        ssd(x.flatten(2), dt, A, B, C)
