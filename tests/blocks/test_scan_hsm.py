"""The hidden-state mixer against its definition in float64."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.scan import hsm_ssd, oracle
from unetkit.errors import ShapeError


def tokens(length: int, dtype: torch.dtype = torch.float64, spread: float = 1.0) -> list[Tensor]:
    """x, B, C, dt (scaled by `spread`), a."""
    draw = torch.Generator().manual_seed(length)
    shapes = ((2, 6, length), (2, 4, length), (2, 4, length), (2, 4, length), (4,))
    made = [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes]
    made[3] *= spread
    return [t.to(dtype).requires_grad_() for t in made]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 67])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("spread", [1.0, 20.0, 1e4])
def test_equals_the_definition(length: int, dtype: torch.dtype, close: float, spread: float) -> None:
    given = tokens(length, dtype, spread)
    found, wanted = hsm_ssd(*given), oracle.hsm_ssd(*given)
    found += torch.autograd.grad((found[0] * found[0]).sum() + found[1].sum(), given)
    wanted += torch.autograd.grad((wanted[0] * wanted[0]).sum() + wanted[1].sum(), given)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        assert (a - b).abs().max() <= close * (1 + b.abs().max())


def test_gradcheck_with_states_mixed() -> None:
    turn = torch.randn(6, 6, dtype=torch.float64)
    given = [t[:1] if t.ndim == 3 else t for t in tokens(9)]
    assert torch.autograd.gradcheck(lambda *t: hsm_ssd(*t, lambda h: torch.tanh(turn @ h)), given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_sums(dtype: torch.dtype) -> None:
    given = [t.detach().to(dtype).requires_grad_() for t in tokens(67, spread=5)]
    with torch.autocast("cpu", dtype=dtype):
        y, h = hsm_ssd(*given)
    assert y.dtype == h.dtype == dtype
    y.float().sum().backward()
    assert (y - oracle.hsm_ssd(*given)[0]).abs().max() < 0.05
    assert all(t.grad is not None and t.grad.dtype == dtype and t.grad.isfinite().all() for t in given)


def test_64k_tokens_stay_finite() -> None:
    given = tokens(65536, torch.float32, 20)
    y, h = hsm_ssd(*given)
    y.sum().backward()
    assert y.isfinite().all()
    assert h.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in given)


def test_compiles_in_one_graph() -> None:
    given = tokens(67, torch.float32)
    plain = hsm_ssd(*given)[0].sin()
    compiled = torch.compile(lambda *t: hsm_ssd(*t)[0].sin(), fullgraph=True, backend="aot_eager")(*given)
    assert torch.allclose(compiled, plain, atol=1e-6)
    for a, b in zip(torch.autograd.grad(compiled.sum(), given), torch.autograd.grad(plain.sum(), given), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_fake_tensors_and_flops() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as count:
        x = torch.empty(2, 8, 64, requires_grad=True)
        y, h = hsm_ssd(x, *(torch.empty(2, 4, 64) for _ in range(3)), torch.empty(4))
        ahead = count.get_total_flops()
        y.sum().backward()
    assert (y.shape, h.shape) == ((2, 8, 64), (2, 8, 4))
    assert ahead == 2 * 64 * 4 * (2 * 2 * 8 + 5)
    # gathering has a product more for each of its factors, spreading one: C is not differentiated here
    assert count.get_total_flops() == ahead + 2 * 64 * 4 * (2 * (2 * 8 + 5) + 2 * 8)


def test_refuses_what_does_not_belong_together() -> None:
    x, B, C, dt, a = tokens(5)
    with pytest.raises(ShapeError, match=r"give x \[B, D, L\]"):
        hsm_ssd(x, B, C, dt, a[:-1])
