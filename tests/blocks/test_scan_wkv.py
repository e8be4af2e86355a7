"""The bidirectional WKV by running sums against the formula in float64."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.scan import bi_wkv, oracle
from unetkit.errors import ModelError, ShapeError


def tokens(
    length: int, dtype: torch.dtype = torch.float64, scale: tuple[float, float, float] = (1, 3, 3)
) -> list[Tensor]:
    """k, v, decay, first; `scale` is that of k, decay and first."""
    draw = torch.Generator().manual_seed(length)
    made = [torch.randn(2, length, 5, generator=draw, dtype=torch.float64) for _ in range(2)]
    made += [torch.randn(5, generator=draw, dtype=torch.float64) for _ in range(2)]
    made = [t * s for t, s in zip(made, (scale[0], 1, *scale[1:]), strict=True)]
    return [t.to(dtype).requires_grad_() for t in made]


def compare(given: list[Tensor], close: float) -> None:
    """Output and gradients against the oracle's."""
    y, truth = bi_wkv(*given), oracle.bi_wkv(*given)
    assert y.dtype == given[0].dtype
    slope = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = (y, *torch.autograd.grad(y, given, slope.to(y.dtype)))
    wanted = (truth, *torch.autograd.grad(truth, given, slope))
    for name, a, b in zip(("y", "k", "v", "decay", "first"), found, wanted, strict=True):
        assert (a - b).abs().max() <= close * (1 + b.abs().max()), name


# chunks are 8 tokens up to a length of 90 or so, then about the root of the length
@pytest.mark.parametrize("length", [1, 7, 8, 9, 35, 255, 256, 257])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_formula(length: int, dtype: torch.dtype, close: float) -> None:
    compare(tokens(length, dtype), close)


@pytest.mark.parametrize(
    "scale",
    [(30, 30, 3), (5, 2000, 10), (3, -2000, 3), (100, 1, -1e5), (100, 1, 1e5), (20, -20, 20), (100, 5e4, 3e4)],
)
@pytest.mark.parametrize("length", [2, 9, 67])
def test_extreme_keys_and_decays(scale: tuple[float, float, float], length: int) -> None:
    compare(tokens(length, scale=scale), 1e-10)
    given = tokens(length, torch.float32, scale=scale)
    y = bi_wkv(*given)
    y.sum().backward()
    assert (y - oracle.bi_wkv(*given)).abs().max() < 1e-3
    assert all(t.grad is not None and t.grad.isfinite().all() for t in given)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(bi_wkv, [t[:1] if t.ndim == 3 else t for t in tokens(9)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_sums(dtype: torch.dtype) -> None:
    given = [t.detach().to(dtype).requires_grad_() for t in tokens(67, scale=(5, 3, 3))]
    with torch.autocast("cpu", dtype=dtype):
        y = bi_wkv(*given)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert (y - oracle.bi_wkv(*given)).abs().max() < 0.02
    assert all(t.grad is not None and t.grad.dtype == dtype and t.grad.isfinite().all() for t in given)


def test_64k_tokens_stay_finite() -> None:
    given = tokens(65536, torch.float32, scale=(10, 5, 5))
    y = bi_wkv(*given)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in given)


def test_compiles_in_one_graph() -> None:
    given = tokens(67, torch.float32)
    plain = bi_wkv(*given).sin()
    compiled = torch.compile(lambda *t: bi_wkv(*t).sin(), fullgraph=True, backend="aot_eager")(*given)
    assert torch.allclose(compiled, plain)
    for a, b in zip(torch.autograd.grad(compiled.sum(), given), torch.autograd.grad(plain.sum(), given), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_fake_tensors_and_flops() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as count:
        k, v = (torch.empty(2, 64, 8, requires_grad=True) for _ in range(2))
        y = bi_wkv(k, v, torch.empty(8), torch.empty(8))
        ahead = count.get_total_flops()
        y.sum().backward()
    assert y.shape == (2, 64, 8)
    assert ahead == 28 * 2 * 64 * 8
    assert count.get_total_flops() == 3 * ahead


def test_refuses_what_does_not_belong_together() -> None:
    k, v, decay, first = tokens(5)
    with pytest.raises(ShapeError, match=r"decay, first \[C\]"):
        bi_wkv(k, v, decay[:-1], first)
    with pytest.raises(ModelError, match="did you mean 'torch'"):
        bi_wkv(k, v, decay, first, backend="torhc")
