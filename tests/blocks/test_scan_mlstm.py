"""The chunked mLSTM against the float64 recurrence, and what must hold whatever the gates and the precision."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.scan import mlstm, oracle
from unetkit.errors import ModelError, ShapeError

Q = 16
LENGTHS = (1, Q - 1, Q, Q + 1, 4 * Q + 3)


def tokens(length: int, dtype: torch.dtype = torch.float64, gates: float = 1.0, width: int = 8) -> list[Tensor]:
    """q, k, v (narrower than q) and the gates, for 2 pictures and 3 heads."""
    draw = torch.Generator().manual_seed(length)
    widths = ((width,), (width,), (width - 3,), (), ())
    made = [torch.randn(2, 3, length, *w, generator=draw, dtype=torch.float64) for w in widths]
    made[3:] = [t * gates for t in made[3:]]
    return [t.to(dtype).requires_grad_() for t in made]


def far(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_equals_the_recurrence(length: int, dtype: torch.dtype, close: float) -> None:
    given = tokens(length, dtype, gates=3)
    h, truth = mlstm(*given, chunk=Q), oracle.mlstm(*given)
    assert h.dtype == dtype
    assert far(h, truth) < close
    slope = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grads = torch.autograd.grad(h, given, slope.to(dtype))
    wanted = torch.autograd.grad(truth, given, slope)
    for name, grad, want in zip("qkvif", grads, wanted, strict=True):
        # the running maximum counts as a constant, right up to eps in the gradients of the gates
        slack = 1e-3 if name in "if" else close
        assert (grad - want).abs().max() <= slack * want.abs().max() + 1e-4 * slack, name


@pytest.mark.parametrize("input_gate", [-20.0, 20.0])
@pytest.mark.parametrize("forget_gate", [-20.0, 20.0])
def test_extreme_gates(input_gate: float, forget_gate: float) -> None:
    given = tokens(4 * Q + 3, torch.float32, gates=0.5)
    with torch.no_grad():
        given[3] += input_gate
        given[4] += forget_gate
    h = mlstm(*given, chunk=Q)
    h.sum().backward()
    assert far(h, oracle.mlstm(*given)) < 1e-3
    assert all(t.grad is not None and t.grad.isfinite().all() for t in given)


def test_wild_gates_are_nearer_the_truth_than_the_quadratic_form() -> None:
    given = tokens(300, torch.float32, gates=20)
    assert far(mlstm(*given), oracle.mlstm(*given)) < 1e-3


def test_gradcheck() -> None:
    given = [t[:1, :2] for t in tokens(9, width=6)]
    assert torch.autograd.gradcheck(lambda *t: mlstm(*t, chunk=4), [t.detach().requires_grad_() for t in given])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_state(dtype: torch.dtype) -> None:
    given = [t.detach().to(dtype).requires_grad_() for t in tokens(4 * Q + 3, gates=5)]
    with torch.autocast("cpu", dtype=dtype):
        h = mlstm(*given, chunk=Q)
    assert h.dtype == dtype
    h.float().sum().backward()
    assert far(h.double(), oracle.mlstm(*given)) < 0.01
    assert all(t.grad is not None and t.grad.dtype == dtype and t.grad.isfinite().all() for t in given)


def test_chunk_and_layout_change_nothing() -> None:
    given = tokens(100, width=4)
    whole = mlstm(*given, chunk=100)
    for chunk in (1, 7, 64, 200):
        assert far(mlstm(*given, chunk=chunk), whole) < 1e-10
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in given]
    assert torch.equal(mlstm(*turned, chunk=100), whole)


def test_64k_tokens_stay_finite() -> None:
    given = [t.detach()[:1, :1].requires_grad_() for t in tokens(65536, torch.float32, gates=5, width=8)]
    h = mlstm(*given)
    h.sum().backward()
    assert h.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in given)


def test_compiles_in_one_graph() -> None:
    given = tokens(2 * Q + 3, torch.float32)
    plain = mlstm(*given, chunk=Q).sin()
    compiled = torch.compile(lambda *t: mlstm(*t, chunk=Q).sin(), fullgraph=True, backend="aot_eager")(*given)
    assert torch.allclose(compiled, plain)
    for a, b in zip(torch.autograd.grad(compiled.sum(), given), torch.autograd.grad(plain.sum(), given), strict=True):
        assert torch.allclose(a, b)


def test_fake_tensors_and_flops() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as count:
        q, k, v = (torch.empty(1, 2, 128, 16, requires_grad=True) for _ in range(3))
        h = mlstm(q, k, v, torch.empty(1, 2, 128), torch.empty(1, 2, 128))
        ahead = count.get_total_flops()
        h.sum().backward()
    assert h.shape == (1, 2, 128, 16)
    # 4 Q d for the pairs and 4 d^2 for the memory, a token and head, and the normaliser
    assert ahead == 256 * (4 * 64 * 16 + 4 * 16 * 16 + 64 + 4 * 16)
    # scores, gradients of queries and keys: 3 products of pairs as wide as keys, 2 as values; 5 with the memory
    assert count.get_total_flops() == ahead + 256 * (2 * 64 * (3 * 16 + 2 * 16) + 5 * 2 * 16 * 16)


def test_refuses_what_does_not_belong_together() -> None:
    q, k, v, i, f = tokens(5)
    with pytest.raises(ShapeError, match="one a token"):
        mlstm(q, k, v, i[..., :-1], f)
    with pytest.raises(ShapeError, match="give q, k"):
        mlstm(q, k[..., :-1], v, i, f)
    with pytest.raises(ShapeError, match="chunk=0"):
        mlstm(q, k, v, i, f, chunk=0)
    with pytest.raises(ModelError, match="did you mean 'torch'"):
        mlstm(q, k, v, i, f, backend="torhc")
