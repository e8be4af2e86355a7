"""Which implementation of an operator runs: the one asked for, or the best that is there for the tensor's device.

oracle         float64, one token after the other; slow, the truth of the tests
torch          plain torch on any device; the default without a GPU
triton         kernels of our own, on NVIDIA GPUs
mamba_ssm, causal_conv1d, mlstm_kernels   the authors' packages, when installed

The packages run when asked for by name alone: "auto" prefers ours, so that results do not change with what happens to
be installed, no package can break a training that asked for nothing, and gradients are those of the operator.
"""

import importlib.util

import torch

from unetkit.errors import ModelError, nearest

_PACKAGES = {
    "triton": "triton",
    "mamba_ssm": "mamba-ssm",
    "causal_conv1d": "causal-conv1d",
    "mlstm_kernels": "mlstm-kernels",
}
"""Backend (which is also the module's name) -> what to install for it."""
_ANYWHERE = ("mlstm_kernels",)
"""Packages that run on a CPU too, if more slowly."""


def choose_backend(operator: str, backend: str, device: torch.device, known: tuple[str, ...]) -> str:
    """Return the backend to run: `backend` itself if it can, for "auto" the best of `known` on this device.

    `known` are those that `operator` has. Raises ModelError for one that it has not, or that cannot run here.
    """
    if backend == "auto":
        # the interpreter only when asked for by name; torch.compile also could not follow the question for it
        able = device.type == "cuda" and "triton" in known and not _obstacle("triton", device)
        return "triton" if able else "torch"
    if backend not in known:
        raise ModelError(
            f"{operator} has no backend {backend!r}{nearest(backend, known)}; use one of auto, {', '.join(known)}"
        )
    obstacle = _obstacle(backend, device)
    if obstacle:
        raise ModelError(f"backend {backend!r} of {operator} {obstacle}, or use backend='auto'")
    return backend


def _obstacle(backend: str, device: torch.device) -> str:
    """Why a backend cannot run on tensors of a device and what to do, or ""."""
    if backend not in _PACKAGES:
        return ""
    if importlib.util.find_spec(backend) is None:
        return f"is not installed: pip install {_PACKAGES[backend]}"
    if backend in _ANYWHERE:
        return ""
    # Triton's interpreter runs kernels on tensors of the CPU: how they are tested without a GPU
    if device.type != "cuda" and not (backend == "triton" and _interpreted()):
        return f"needs tensors on an NVIDIA GPU, these are on {device.type}: move them"
    return ""


def _interpreted() -> bool:
    """Whether Triton was told to interpret its kernels."""
    import triton

    return bool(triton.knobs.runtime.interpret)
