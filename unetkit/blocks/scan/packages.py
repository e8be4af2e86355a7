"""The operators by the packages of their authors: mamba-ssm and causal-conv1d, both for NVIDIA GPUs.

Here is what they ask for and we do not: one dtype for all tokens, fp32 for the rest, tokens from the first to the last.
What they do not know about (reversed tokens, mixed dtypes) costs copies. Gradients are the packages' own.
"""

import importlib
import inspect
from types import ModuleType

import torch
from torch import Tensor

from unetkit.blocks.precision import no_autocast
from unetkit.blocks.scan.inputs import ScanInputs, SsdInputs
from unetkit.errors import ModelError

_MOST_STATES = 256
_CONV_WIDTHS = (2, 3, 4)
LEAST_CHUNK = 16
"""Fewest tokens that the products of Triton take."""


def load(module: str) -> ModuleType:
    """Import a module of a package. Raises ModelError if it is installed but does not import."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        backend = module.split(".")[0]
        why = str(err).splitlines()[0]
        raise ModelError(
            f"backend {backend!r} does not import here ({why}); install it anew, or use backend='auto'"
        ) from err


def power_of_two(chunk: int) -> int:
    """Return the smallest power of 2 that is not below `chunk`, at least LEAST_CHUNK."""
    return max(LEAST_CHUNK, 1 << (chunk - 1).bit_length())


def selective_scan(given: ScanInputs) -> Tensor:
    """Run mamba-ssm's CUDA scan; [B, D, L] in the dtype of u. Raises ModelError for what it does not take."""
    scan = load("mamba_ssm.ops.selective_scan_interface")
    if getattr(scan, "selective_scan_cuda", None) is None:
        raise ModelError(
            "backend 'mamba_ssm' was installed without its CUDA scan; MAMBA_KEEP_CUDA_BUILD=TRUE pip install "
            "--no-build-isolation mamba-ssm, or use backend='auto'"
        )
    if given.A.shape[1] > _MOST_STATES:
        raise ModelError(f"backend 'mamba_ssm' takes {_MOST_STATES} states at most, not {given.A.shape[1]}; use 'auto'")
    tokens = [t for t in (given.u, given.delta, given.B, given.C, given.z) if t is not None]
    dtype = _shared_dtype("mamba_ssm", *tokens)
    turned = [(t.flip(-1) if given.reverse else t).to(dtype).contiguous() for t in tokens]
    z = turned[4] if given.z is not None else None
    with no_autocast(given.u):
        y = scan.selective_scan_fn(
            *turned[:2],
            given.A.float(),
            *turned[2:4],
            _plain(given.D),
            z=z,
            delta_bias=_plain(given.delta_bias),
            delta_softplus=given.softplus,
        )
    return (y.flip(-1) if given.reverse else y).to(given.u.dtype)


def ssd(given: SsdInputs) -> Tensor:
    """Run mamba-ssm's Triton kernels of Mamba-2; [B, L, H, P] in the dtype of x. Raises ModelError for fp64."""
    scan = load("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    dtype = _shared_dtype("mamba_ssm", given.x, given.B, given.C)
    # releases that cannot be told keep states in the dtype of C
    told = "state_dtype" in inspect.signature(scan).parameters
    options = {"state_dtype": torch.float32} if told else {}
    x, B, C = (t.to(dtype if told else torch.float32).contiguous() for t in (given.x, given.B, given.C))
    with no_autocast(x):
        y = scan(x, given.dt.float(), given.A.float(), B, C, power_of_two(given.chunk), D=_plain(given.D), **options)
    return y.to(given.x.dtype)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, reverse: bool) -> Tensor:
    """Run causal-conv1d's kernel; [B, D, L] in the dtype of x. Raises ModelError for widths that it does not have."""
    conv = load("causal_conv1d").causal_conv1d_fn
    if weight.shape[-1] not in _CONV_WIDTHS:
        raise ModelError(
            f"backend 'causal_conv1d' has no width {weight.shape[-1]}; use one of {_CONV_WIDTHS} or backend='auto'"
        )
    _shared_dtype("causal_conv1d", x, weight)
    given = (x.flip(-1) if reverse else x).contiguous()
    y = conv(given, weight.contiguous(), None if bias is None else bias.to(weight.dtype), activation=activation)
    return y.flip(-1) if reverse else y


def _plain(t: Tensor | None) -> Tensor | None:
    """Parameters of a channel as the packages want them."""
    return None if t is None else t.float().contiguous()


def _shared_dtype(backend: str, *tokens: Tensor) -> torch.dtype:
    """The dtype of all these, or fp32 if they differ."""
    dtypes = {t.dtype for t in tokens}
    if torch.float64 in dtypes:
        raise ModelError(f"backend {backend!r} takes fp32, fp16 and bf16, not fp64; use backend='torch'")
    return dtypes.pop() if len(dtypes) == 1 else torch.float32
