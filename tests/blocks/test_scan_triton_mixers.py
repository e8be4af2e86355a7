"""The Triton kernels of mlstm and bi_wkv under Triton's interpreter, against the torch forms in float64.

The interpreter is chosen when Triton is imported, so a process of its own runs this file's `main`. No GPU is used.
"""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_under_the_interpreter() -> None:
    told = {**os.environ, "TRITON_INTERPRET": "1"}
    out = subprocess.run([sys.executable, str(Path(__file__))], env=told, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], slack: float, what: str) -> None:
    """Refuse what is too far from the truth, relative to its largest value."""
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert (a - b).abs().max() <= slack * (1 + b.abs().max()), f"{what}, {number}: {a} is not {b}"


def check_mlstm(length: int, width: int, out: int, dtype: torch.dtype, slack: float) -> None:
    """Forward and backward of one length, with chunks of 16."""
    from unetkit.blocks.scan import torch_mlstm, triton_mlstm

    shapes = ((2, length, width), (2, length, width), (2, length, out), (2, length), (2, length))
    rows = tuple((torch.randn(shape) * (1, 1, 1, 3, 3)[n]).to(dtype) for n, shape in enumerate(shapes))
    # values and a constant: the normaliser stays away from zero, so that halves can be compared
    rows = (rows[0].abs(), rows[1].abs(), *rows[2:])
    truth, grad = tuple(t.double() for t in rows), torch.randn(2, length, out)
    h, wanted = triton_mlstm.forward(rows, 16, 1e-6), torch_mlstm.forward(truth, 16, 1e-6)
    close((h,), (wanted,), slack, f"h of {length}")
    grads = triton_mlstm.backward(grad, h, rows, 16, 1e-6)
    wanted_grads = torch_mlstm.backward(grad.double(), wanted, truth, 16, 1e-6)
    close(tuple(grads), tuple(wanted_grads), slack, f"gradients of {length}")


def check_wkv(length: int, scale: float) -> None:
    """Forward and backward of one length, with chunks of 4."""
    from unetkit.blocks.scan import torch_wkv, triton_wkv

    sides = partial(triton_wkv.sides, chunk=4)
    k, v, grad = (torch.randn(1, length, 5) for _ in range(3))
    given = (k * 3, v, torch.randn(5) * scale / length, torch.randn(5))
    truth = tuple(t.double() for t in given)
    found, wanted = torch_wkv.forward(*given, sides), torch_wkv.forward(*truth)
    close(found, wanted, 1e-4, f"y of {length}")
    grads, wanted_grads = (
        torch_wkv.backward(grad, found, given, sides),
        torch_wkv.backward(grad.double(), wanted, truth),
    )
    close(grads, wanted_grads, 1e-3, f"gradients of {length}")


def check_choice() -> None:
    """The public functions take the backend by its name."""
    from unetkit.blocks.scan import mlstm

    rows = [torch.randn(1, 1, 17, 8, requires_grad=True) for _ in range(3)] + [torch.randn(1, 1, 17) for _ in range(2)]
    found, wanted = mlstm(*rows, backend="triton"), mlstm(*rows, backend="torch")
    close((found,), (wanted,), 1e-4, "mlstm")
    found.sum().backward()


def main() -> None:
    """All checks."""
    torch.manual_seed(0)
    for length, width, out in ((1, 8, 5), (15, 8, 5), (16, 20, 18), (17, 8, 5), (67, 8, 40)):
        check_mlstm(length, width, out, torch.float32, 1e-4)
    check_mlstm(17, 8, 5, torch.float16, 0.02)
    for length, scale in ((1, 3), (3, 3), (4, 3), (5, 3), (19, -2000), (19, 50)):
        check_wkv(length, scale)
    check_choice()


if __name__ == "__main__":
    main()
