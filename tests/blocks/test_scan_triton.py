"""Triton kernels of the scans without a GPU: run by Triton's interpreter against the oracle, and compiled.

The interpreter is chosen when triton is imported, so these tests run in a process of their own: `test_interpreted`
starts it. Speed on a GPU is not measured here.
"""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from unetkit.blocks.scan import selective_scan, ssd

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def agree(scan: Any, leaves: list[Tensor], tolerance: float, **options: Any) -> None:
    """Compare output and gradients of the kernels with the oracle's, relative to the largest value of each."""
    results = []
    for backend in ("triton", "oracle"):
        given = [t.clone().requires_grad_() for t in leaves]
        y = scan(*given, backend=backend, **options)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        results.append([y, *torch.autograd.grad(y, given, weights)])
    for a, b in zip(*results, strict=True):
        assert torch.isfinite(a).all()
        assert (a.double() - b.double()).abs().max() <= tolerance * (1 + b.double().abs().max())


def selective_inputs(length: int, count: int = 8) -> list[Tensor]:
    """Return the first `count` of u, delta, A, B, C, D, z, delta_bias: 2 channels in 2 groups, 3 states."""
    draw = torch.Generator().manual_seed(length)
    token, shared = (1, 2, length), (1, 2, 3, length)
    shapes = ((token, token, (2, 3), shared, shared, (2,), token, (2,)))[:count]
    drawn = [torch.randn(shape, generator=draw) for shape in shapes]
    drawn[1], drawn[2] = drawn[1].abs(), -8 * drawn[2].abs()
    return drawn


if not INTERPRETED:

    def test_interpreted() -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-3000:]

    def test_selective_scan_compiles_for_a_gpu() -> None:
        from unetkit.blocks.scan import triton_selective

        common = {"SOFTPLUS": True, "REVERSE": False, "T": 64, "N": 16}
        compiled(triton_selective._forward_kernel, common | {"KEEP": True, "D": None, "groups": 1}, half=("u", "y"))
        compiled(triton_selective._backward_kernel, common, half=("u", "du"))

    def test_ssd_compiles_for_a_gpu() -> None:
        from unetkit.blocks.scan import triton_ssd

        sides = {"CHUNK": 64, "Q": 64, "N": 64, "P": 32, "groups": 1}
        compiled(triton_ssd._add_kernel, sides | {"TO_END": True}, half=("x", "weights"))
        compiled(triton_ssd._pass_kernel, {"BACK": True, "BLOCK": 1024}, half=())
        compiled(triton_ssd._output_kernel, sides, half=("x", "B", "C", "y"))
        compiled(triton_ssd._gradient_kernel, sides, half=("x", "B", "C", "dy", "dx"))

    def compiled(kernel: Any, constants: dict[str, Any], half: tuple[str, ...]) -> None:
        """Compile a kernel for compute capability 9.0, with whole numbers for what is not a tensor."""
        import triton
        import triton.language as tl
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        constants = constants | ({"DTYPE": tl.float32} if "DTYPE" in kernel.arg_names else {})
        numbers = ("channels", "chunks", "groups", "heads", "length", "size", "states", "width")
        kinds = {name: "bf16" if name in half else "fp32" for name in kernel.arg_names}
        signature = {name: "i32" if name in numbers else f"*{kind}" for name, kind in kinds.items()}
        signature |= dict.fromkeys(constants, "constexpr")
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        made = triton.compile(ASTSource(kernel, signature, constexprs=places), target=GPUTarget("cuda", 90, 32))
        assert made.asm["ptx"]

else:

    @pytest.mark.parametrize(
        ("length", "reverse", "count"),
        [(1, False, 8), (63, True, 8), (64, False, 5), (65, True, 6), (259, False, 8), (259, True, 8)],
    )
    def test_selective_scan(length: int, reverse: bool, count: int) -> None:
        agree(selective_scan, selective_inputs(length, count), 2e-6, delta_softplus=count == 8, reverse=reverse)

    def test_selective_scan_with_large_gates() -> None:
        leaves = selective_inputs(66, 5)
        leaves[1], leaves[2] = 50 * leaves[1], torch.full_like(leaves[2], -256.0)
        agree(selective_scan, leaves, 2e-5)

    def test_selective_scan_of_half_inputs() -> None:
        leaves = selective_inputs(65)
        leaves = [t.bfloat16() if i in (0, 1, 3, 4, 6) else t for i, t in enumerate(leaves)]
        agree(selective_scan, leaves, 2e-2, delta_softplus=True)

    @pytest.mark.parametrize(
        ("length", "chunk", "skip"),
        [(1, 16, True), (15, 16, True), (16, 16, False), (17, 16, True), (67, 16, True), (22, 10, True)],
    )
    def test_ssd(length: int, chunk: int, skip: bool) -> None:
        draw = torch.Generator().manual_seed(length)
        shared = (1, length, 1, 3)
        shapes = ((1, length, 2, 5), (1, length, 2), (2,), shared, shared, (2,))[: 6 if skip else 5]
        leaves = [torch.randn(shape, generator=draw) for shape in shapes]
        leaves[1], leaves[2] = leaves[1].abs(), -4 * leaves[2].abs()
        agree(ssd, leaves, 5e-6, chunk=chunk)
