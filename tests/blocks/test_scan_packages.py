"""The packages of the operators' authors as backends.

Stand-ins have their signatures and refuse what the kernels refuse (dtypes, layouts, lengths), and compute by the
oracle: so everything on this side of a package is tested where it does not run. With a GPU and the packages (mark gpu),
the real ones are compared.
"""

import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from unetkit.blocks.scan import backends, causal_conv1d, mlstm, oracle, package_mlstm, packages, selective_scan, ssd
from unetkit.errors import ModelError

HALVES = (torch.bfloat16, torch.float16)
LENGTHS = (1, 15, 16, 17, 67)


def install(monkeypatch: pytest.MonkeyPatch, module: str, **content: Any) -> None:
    """Let a module, and the packages that it is in, be importable with this content, on any device."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        made = ModuleType(".".join(parts[:depth]))
        made.__spec__ = importlib.machinery.ModuleSpec(made.__name__, None)
        monkeypatch.setitem(sys.modules, made.__name__, made)
    vars(sys.modules[module]).update(content)
    monkeypatch.setattr(backends, "_obstacle", lambda *_: "")


def same_dtype(*tensors: Tensor | None) -> bool:
    """Whether the CUDA kernels would take these tokens."""
    found = {t.dtype for t in tensors if t is not None}
    return len(found) == 1 and found <= {torch.float32, *HALVES}


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    assert same_dtype(u, delta, B, C, z)
    assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
    assert all(t is None or t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C, D, z, delta_bias))
    assert B.dim() == C.dim() == 4
    assert not return_last_state
    assert not torch.is_autocast_enabled("cpu")
    return oracle.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus).to(delta.dtype)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False, return_varlen_states=False,
    state_dtype=None,
):  # fmt: skip
    assert same_dtype(x, B, C)
    assert dt.dtype == A.dtype == torch.float32
    assert B.shape == C.shape
    assert chunk_size >= 16
    assert chunk_size & (chunk_size - 1) == 0
    assert state_dtype == torch.float32 or C.dtype == torch.float32
    return oracle.ssd(x, dt, A, B, C, D).to(x.dtype)


def older_mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D)


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    assert x.is_contiguous()
    assert 2 <= weight.shape[1] <= 4
    assert bias is None or bias.dtype == weight.dtype
    width = weight.shape[1]
    y = torch.zeros_like(x) if bias is None else torch.zeros_like(x) + bias[:, None]
    for back in range(min(width, x.shape[2])):
        past = torch.nn.functional.pad(x, (back, 0))[..., : x.shape[2]]
        y = y + weight[:, width - 1 - back, None] * past
    return y * torch.sigmoid(y) if activation == "silu" else y


def mlstm_chunkwise(
    q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None, return_last_states=False, eps=1e-6, chunk_size=64,
    **kwargs,
):  # fmt: skip
    assert not kwargs
    assert q.ndim == 4
    assert q.shape[2] % chunk_size == 0
    assert chunk_size & (chunk_size - 1) == 0
    assert i.dtype == f.dtype == torch.float32
    assert same_dtype(q, k, v)
    return oracle.mlstm(q, k, v, i, f, eps).to(q.dtype)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw inputs that are differentiated."""
    draw = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]


def agree(scan: Callable[..., Tensor], given: list[Tensor | None], ours: str, theirs: str, close: float) -> None:
    """Compare output and gradients of two backends, relative to the largest value of each."""
    results = []
    wanted = [t for t in given if t is not None]
    for backend in (ours, theirs):
        y = scan(*given, backend=backend)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
        results.append([y, *torch.autograd.grad(y, wanted, weights)])
    for a, b in zip(*results, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.isfinite().all()
        assert (a.double() - b.double()).abs().max() <= close * (1 + b.double().abs().max())


def s6_inputs(length: int, device: str = "cpu") -> list[Tensor | None]:
    """u, delta, A, B, C, D, z, delta_bias: 2 pictures, 16 channels in 2 groups, 4 states."""
    token, shared = (2, 16, length), (2, 2, 4, length)
    made = leaves(token, token, (16, 4), shared, shared, (16,), token, (16,))
    return [(-t.abs() if n == 2 else t).detach().to(device).requires_grad_() for n, t in enumerate(made)]


def ssd_inputs(length: int, device: str = "cpu") -> list[Tensor | None]:
    """x, dt, A, B, C, D: 2 pictures, 4 heads of 16 in 2 groups, 16 states."""
    shared = (2, length, 2, 16)
    made = leaves((2, length, 4, 16), (2, length, 4), (4,), shared, shared, (4,))
    made = [(t.abs() * (-1 if n == 2 else 1) if n in (1, 2) else t) for n, t in enumerate(made)]
    return [t.detach().to(device).requires_grad_() for t in made]


def mlstm_inputs(length: int, device: str = "cpu") -> list[Tensor | None]:
    """q, k, v and gates: 2 pictures, 2 heads of 16."""
    made = leaves(*((2, 2, length, 16),) * 3, *((2, 2, length),) * 2)
    return [(3 * t if n > 2 else t).detach().to(device).requires_grad_() for n, t in enumerate(made)]


@pytest.fixture
def mamba(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba-ssm as a stand-in."""
    module = "mamba_ssm.ops.selective_scan_interface"
    install(monkeypatch, module, selective_scan_fn=selective_scan_fn, selective_scan_cuda=object())
    triton = ModuleType("mamba_ssm.ops.triton.ssd_combined")
    vars(triton)["mamba_chunk_scan_combined"] = mamba_chunk_scan_combined
    monkeypatch.setitem(sys.modules, triton.__name__, triton)


@pytest.mark.usefixtures("mamba")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan_of_mamba_ssm(length: int, reverse: bool) -> None:
    given = s6_inputs(length)

    def scan(*t: Any, backend: str) -> Tensor:
        return selective_scan(*t, True, reverse=reverse, backend=backend)

    agree(scan, given, "mamba_ssm", "torch", 5e-6)
    # one group without its axis, tokens in front of channels, nothing that is optional
    bare = [*(t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in given[:2]), given[2]]
    bare = [t.detach().requires_grad_() for t in (*bare, given[3][:, 0], given[4][:, 0])]
    agree(lambda *t, backend: selective_scan(*t, reverse=reverse, backend=backend), bare, "mamba_ssm", "torch", 5e-6)


@pytest.mark.usefixtures("mamba")
@pytest.mark.parametrize("half", HALVES)
def test_halves_and_autocast_reach_mamba_ssm_in_one_dtype(half: torch.dtype) -> None:
    given = s6_inputs(33)
    mixed = [t.detach().to(half) if n in (0, 3) else t.detach() for n, t in enumerate(given)]
    alike = [t.detach().to(half) if n in (0, 1, 3, 4, 6) else t.detach() for n, t in enumerate(given)]
    with torch.autocast("cpu", half):
        for tokens in (mixed, alike):
            leaf = [t.requires_grad_() for t in tokens]
            agree(lambda *t, backend: selective_scan(*t, True, backend=backend), leaf, "mamba_ssm", "torch", 2e-2)


@pytest.mark.usefixtures("mamba")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [5, 6])
def test_ssd_of_mamba_ssm(length: int, count: int) -> None:
    given = ssd_inputs(length)[:count]
    agree(lambda *t, backend: ssd(*t, chunk=24, backend=backend), given, "mamba_ssm", "torch", 2e-5)


@pytest.mark.usefixtures("mamba")
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("half", HALVES)
def test_states_of_mamba_ssm_stay_in_fp32(half: torch.dtype, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not told:
        module = sys.modules["mamba_ssm.ops.triton.ssd_combined"]
        monkeypatch.setattr(module, "mamba_chunk_scan_combined", older_mamba_chunk_scan_combined)
    given = [t.detach().to(half).requires_grad_() if n in (0, 1, 3, 4) else t for n, t in enumerate(ssd_inputs(33))]
    agree(ssd, given, "mamba_ssm", "torch", 2e-2)


@pytest.mark.usefixtures("mamba")
def test_mamba_ssm_refuses_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not fp64; use backend='torch'"):
        selective_scan(*(t.double() for t in s6_inputs(5)), backend="mamba_ssm")
    u, delta, *_ = s6_inputs(5)
    many = torch.zeros(2, 257, 5)
    with pytest.raises(ModelError, match="takes 256 states at most, not 257"):
        selective_scan(u, delta, torch.zeros(16, 257), many, many, backend="mamba_ssm")
    monkeypatch.setattr(sys.modules["mamba_ssm.ops.selective_scan_interface"], "selective_scan_cuda", None)
    with pytest.raises(ModelError, match="without its CUDA scan; MAMBA_KEEP_CUDA_BUILD=TRUE"):
        selective_scan(*s6_inputs(5), backend="mamba_ssm")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv1d_of_its_package(reverse: bool, activation: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    given = leaves((2, 10, 3), (3, 4), (3,))
    given[0] = given[0].detach().transpose(1, 2).requires_grad_()

    def conv(*t: Tensor, backend: str) -> Tensor:
        return causal_conv1d(*t, activation, reverse=reverse, backend=backend)

    agree(conv, given, "causal_conv1d", "torch", 1e-6)
    with pytest.raises(ModelError, match=r"no width 5; use one of \(2, 3, 4\)"):
        causal_conv1d(given[0], torch.zeros(3, 5), backend="causal_conv1d")
    with pytest.raises(ModelError, match="not fp64"):
        causal_conv1d(given[0].double(), given[1], backend="causal_conv1d")


@pytest.mark.parametrize("length", [*LENGTHS, 200])
@pytest.mark.parametrize("chunk", [1, 24, 64, 128])
def test_mlstm_of_its_package(length: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mlstm_kernels.torch.chunkwise", mlstm_chunkwise__native_autograd=mlstm_chunkwise)
    agree(
        lambda *t, backend: mlstm(*t, chunk=chunk, backend=backend),
        mlstm_inputs(length),
        "mlstm_kernels",
        "torch",
        2e-4,
    )


@pytest.mark.parametrize("half", HALVES)
def test_gates_of_mlstm_reach_its_package_in_fp32(half: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mlstm_kernels.torch.chunkwise", mlstm_chunkwise__native_autograd=mlstm_chunkwise)
    given = [t.detach().to(half).requires_grad_() for t in mlstm_inputs(33)]
    with torch.autocast("cpu", half):
        agree(mlstm, given, "mlstm_kernels", "torch", 2e-2)


def test_mlstm_kernels_have_triton_for_small_and_large_chunks() -> None:
    assert package_mlstm.kernel_name(64, cuda=True) == "mlstm_chunkwise__limit_chunk"
    assert package_mlstm.kernel_name(128, cuda=True) == "mlstm_chunkwise__xl_chunk"
    assert [packages.power_of_two(n) for n in (1, 16, 17, 64, 100)] == [16, 16, 32, 64, 128]


def test_a_package_that_does_not_import_says_so() -> None:
    with pytest.raises(ModelError, match=r"'no_such_package' does not import here .*; install it anew"):
        packages.load("no_such_package.ops")


def test_packages_are_not_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    known = inspect.signature(selective_scan).parameters["backend"].default
    assert backends.choose_backend("selective_scan", known, torch.device("cuda"), ("torch", "mamba_ssm")) == "torch"
    obstacle = pytest.raises(ModelError, match="needs tensors on an NVIDIA GPU, these are on cpu: move them")
    with obstacle:
        selective_scan(*s6_inputs(5), backend="mamba_ssm")


@pytest.mark.skipif(importlib.util.find_spec("mlstm_kernels") is None, reason="mlstm-kernels is not installed")
@pytest.mark.parametrize("length", LENGTHS)
def test_mlstm_kernels_themselves_on_the_cpu(length: int) -> None:
    agree(mlstm, mlstm_inputs(length), "mlstm_kernels", "oracle", 1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("operator", ["selective_scan", "ssd", "causal_conv1d", "mlstm"])
def test_the_packages_themselves_on_a_gpu(operator: str) -> None:
    backend = {"causal_conv1d": "causal_conv1d", "mlstm": "mlstm_kernels"}.get(operator, "mamba_ssm")
    pytest.importorskip(backend)
    if operator == "selective_scan":
        agree(
            lambda *t, backend: selective_scan(*t, True, backend=backend),
            s6_inputs(300, "cuda"),
            backend,
            "oracle",
            1e-4,
        )
    elif operator == "ssd":
        agree(ssd, ssd_inputs(300, "cuda"), backend, "oracle", 2e-2)  # products in tf32
    elif operator == "causal_conv1d":
        given = [t.detach().cuda().requires_grad_() for t in leaves((2, 16, 40), (16, 4), (16,))]
        agree(causal_conv1d, given, backend, "torch", 1e-5)
    else:
        agree(mlstm, mlstm_inputs(300, "cuda"), backend, "oracle", 2e-2)
