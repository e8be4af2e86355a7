"""The selective scan on every backend that runs here, against the recurrence in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.scan import causal_conv1d, selective_scan
from unetkit.blocks.scan.backends import choose_backend
from unetkit.blocks.scan.inputs import CHUNK
from unetkit.errors import ModelError, ShapeError
from unetkit.plan.memory import trace_step

LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 3)


def inputs(length: int, groups: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Return u, delta, A, B, C, D, z, delta_bias for a batch of 2, 6 channels and 3 states."""
    draw = torch.Generator().manual_seed(seed)
    token, shared = (2, 6, length), (2, groups, 3, length)
    shapes = (token, token, (6, 3), shared, shared, (6,), token, (6,))
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    drawn[2] = -8 * torch.rand(6, 3, generator=draw, dtype=torch.float64) - 0.1
    return [t.to(dtype).requires_grad_() for t in drawn]


def output_and_gradients(given: list[Tensor], backend: str, **options: Any) -> list[Tensor]:
    """Run the scan and differentiate it by everything given."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    y = selective_scan(*leaves, backend=backend, **options)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y * weights.to(y.dtype)).sum(), leaves)]


def agree(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    """Compare each tensor relative to its largest value."""
    for a, b in zip(ours, truth, strict=True):
        assert torch.isfinite(a).all()
        assert (a.double() - b.double()).abs().max() <= tolerance * (1 + b.double().abs().max())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_equal_to_the_oracle_with_gradients(length: int, reverse: bool) -> None:
    given = inputs(length)
    options = {"delta_softplus": True, "reverse": reverse}
    agree(output_and_gradients(given, "torch", **options), output_and_gradients(given, "oracle", **options), 2e-6)


@pytest.mark.parametrize("count", [5, 6])
def test_what_is_optional_may_be_left_out(count: int) -> None:
    given = inputs(70, groups=1)[:count]
    given[1] = given[1].detach().abs()
    agree(output_and_gradients(given, "torch"), output_and_gradients(given, "oracle"), 2e-6)


def test_one_group_needs_no_axis() -> None:
    u, delta, A, B, C, *_ = inputs(20, groups=1)
    assert torch.equal(selective_scan(u, delta, A, B[:, 0], C[:, 0]), selective_scan(u, delta, A, B, C))


@pytest.mark.parametrize("rate", [-1e-3, -16.0, -256.0])
@pytest.mark.parametrize("delta", [1e-4, 0.1, 1.0, 50.0])
def test_extreme_gates(rate: float, delta: float) -> None:
    given = inputs(2 * CHUNK + 5)[:5]
    given[1] = delta * torch.rand(given[1].shape, generator=torch.Generator().manual_seed(2))
    given[2] = torch.full_like(given[2], rate)
    agree(output_and_gradients(given, "torch"), output_and_gradients(given, "oracle"), 5e-6)


def test_reversed_is_flipped() -> None:
    u, delta, A, B, C, D, z, bias = inputs(100)
    turned = selective_scan(u.flip(-1), delta.flip(-1), A, B.flip(-1), C.flip(-1), D, z.flip(-1), bias, True)
    straight = selective_scan(u, delta, A, B, C, D, z, bias, True, reverse=True)
    assert torch.allclose(straight, turned.flip(-1), atol=1e-6)


def test_gradcheck() -> None:
    given = inputs(9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, True), given)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_inside(half: torch.dtype) -> None:
    given = inputs(CHUNK + 1)
    with torch.autocast("cpu", half):
        inside = output_and_gradients(given, "torch", delta_softplus=True)
    agree(inside, output_and_gradients(given, "torch", delta_softplus=True), 0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_inputs_are_scanned_in_fp32(half: torch.dtype) -> None:
    given = inputs(4 * CHUNK + 3)
    rounded = [t.detach().to(half) if i in (0, 1, 3, 4, 6) else t.detach() for i, t in enumerate(given)]
    ours = output_and_gradients(rounded, "torch", delta_softplus=True)
    assert [t.dtype for t in ours[1:]] == [t.dtype for t in rounded]
    assert ours[0].dtype == half
    # what is left is the rounding of the results, and of a weighting in half precision
    agree(ours, output_and_gradients([t.float() for t in rounded], "oracle", delta_softplus=True), 2e-2)


def test_long_inputs_stay_finite() -> None:
    length = 65536
    draw = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(1, 4, length, generator=draw, requires_grad=True) for _ in range(2))
    B, C = (torch.randn(1, 2, length, generator=draw) for _ in range(2))
    y = selective_scan(u, delta, torch.tensor([[-1.0, -16.0]]).repeat(4, 1), B, C, delta_softplus=True)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(u.grad).all()
    assert torch.isfinite(delta.grad).all()


def test_compiles_as_one_graph() -> None:
    given = inputs(CHUNK + 1)
    compiled = torch.compile(lambda *x: 2 * selective_scan(*x, True), fullgraph=True, backend="aot_eager")
    expected, y = 2 * selective_scan(*given, True), compiled(*given)
    assert torch.equal(y, expected)
    ours, truth = (torch.autograd.grad(t.square().sum(), given) for t in (y, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))


def test_the_operator_keeps_torchs_rules() -> None:
    given = inputs(CHUNK + 1)
    torch.library.opcheck(torch.ops.unetkit.selective_scan.default, (*given, True, False, "torch", True))
    given[5] = given[6] = given[7] = None
    torch.library.opcheck(torch.ops.unetkit.selective_scan.default, (*given, True, True, "torch", True))


class _Scan(torch.nn.Module):
    """A scan whose every input is made from the image [B, C, L]."""

    def __init__(self, scan: Callable[..., Tensor]) -> None:
        super().__init__()
        self.scan = scan
        self.rate = torch.nn.Parameter(-torch.rand(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        shared = x[:, :8]
        return self.scan(x * 2, x * 3, self.rate, shared, shared, delta_softplus=True)


def test_planner_sees_memory_and_arithmetic() -> None:
    network, length = _Scan(selective_scan).to("meta"), 8 * CHUNK

    def loss(y: Tensor, _: Tensor) -> Tensor:
        return y.sum()

    cost = trace_step(network, loss, (1, 16, length), (1, 1, length), half=None, kept=0)
    states = length * 16 * 8 * 4
    # far below one state a token, of which a loop keeps several; above what is kept of them
    assert states / CHUNK < cost.memory < states
    assert cost.flops == length * 16 * (9 * 8 + 2) + length * 16 * (20 * 8 + 6)


def test_flops_counted_as_published() -> None:
    given = [t.detach() for t in inputs(50)]
    with FlopCounterMode(display=False) as counter:
        selective_scan(*given)
    # 9 a state (VMamba's accounting), 2 for the skip
    assert counter.get_total_flops() == 2 * 6 * 50 * (9 * 3 + 2)


def test_fake_tensors_have_the_shapes_of_real_ones() -> None:
    with FakeTensorMode():
        given = [torch.empty(t.shape, dtype=torch.bfloat16, requires_grad=True) for t in inputs(50)]
        y = selective_scan(*given, True)
        y.sum().backward()
    assert (y.shape, y.dtype) == ((2, 6, 50), torch.bfloat16)
    assert all(t.grad.shape == t.shape for t in given)


def test_states_are_kept_for_training_only() -> None:
    given = inputs(3 * CHUNK)
    kept = torch.ops.unetkit.selective_scan(*given, True, False, "torch", True)[1]
    none = torch.ops.unetkit.selective_scan(*given, True, False, "torch", False)[1]
    assert (kept.shape, none.numel()) == ((3, 2, 2, 3, 3), 0)


def test_second_derivative_is_refused() -> None:
    given = inputs(5)
    (first,) = torch.autograd.grad(selective_scan(*given, True).sum(), given[:1], create_graph=True)
    with pytest.raises(ModelError, match="no second derivative; use backend='oracle'"):
        first.sum().backward()


def test_refuses_what_does_not_fit() -> None:
    u, delta, A, B, C, D, *_ = inputs(5)
    with pytest.raises(ShapeError, match=r"delta \[2, 6, 4\]; beside its u it must be \[2, 6, 5\]"):
        selective_scan(u, delta[..., :4], A, B, C)
    with pytest.raises(ShapeError, match="6 channels for 4 groups"):
        selective_scan(u, delta, A, B.repeat(1, 2, 1, 1), C)
    with pytest.raises(ShapeError, match=r"u \[6, 5\]"):
        selective_scan(u[0], delta, A, B, C)
    with pytest.raises(ModelError, match=r"no backend 'toch' \(did you mean 'torch'\?\); use one of auto, oracle"):
        selective_scan(u, delta, A, B, C, D, backend="toch")


def test_backend_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"is not installed: pip install mlstm-kernels, or use backend='auto'|needs"):
        choose_backend("mlstm", "mlstm_kernels", torch.device("cpu"), ("torch", "mlstm_kernels"))
    assert choose_backend("ssd", "auto", torch.device("cpu"), ("torch",)) == "torch"


@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv_sees_its_past_only(reverse: bool) -> None:
    x = torch.randn(2, 3, 10, requires_grad=True)
    y = causal_conv1d(x, torch.randn(3, 4), torch.randn(3), "silu", reverse=reverse)
    (seen,) = torch.autograd.grad(y[:, :, 5].sum(), x)
    places = seen.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert places == ([5, 6, 7, 8] if reverse else [2, 3, 4, 5])
    assert y.shape == x.shape


def test_causal_conv_refuses_other_activations() -> None:
    with pytest.raises(ModelError, match="no activation 'relu'; use 'silu' or None"):
        causal_conv1d(torch.randn(1, 2, 4), torch.randn(2, 4), activation="relu")
