"""What computes, and in which number format and memory layout it does so fastest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unetkit.errors import ModelError, RecipeError

# Refused rather than worked around: results would be wrong without a sign of it.
_BROKEN = (2, 9)


@dataclass(frozen=True)
class Compute:
    """A device, the format its convolutions run in (fp32: no autocast), and whether channels come last in memory."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False


def check_torch(version: str = torch.__version__) -> None:
    """Raise ModelError for a release of torch whose 3D convolutions are broken."""
    if tuple(int(n) for n in version.split(".")[:2]) == _BROKEN:
        raise ModelError(
            f"torch {version}: its 3D convolutions in bf16 are wrong with some cuDNN releases, or 20 times as slow "
            "(pytorch issues 163539, 174051); install torch 2.8, or 2.10 and later"
        )


def pick_device(name: str = "auto") -> torch.device:
    """Return the device for "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises RecipeError for another name, or a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise RecipeError(f"device={name}: choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if int(number or 0) >= count:
        there = f"it has cuda:0 to cuda:{count - 1}" if count else "torch sees no GPU here"
        raise RecipeError(f"device={name}: not on this machine ({there}); use device=auto")
    return torch.device(name)


def pick_compute(device: torch.device, precision: str = "auto") -> Compute:
    """Return how to predict on a device with a network trained in `precision` (auto, fp32, bf16 or fp16).

    A format without units in the hardware would only be slower, so fp32 takes its place.
    """
    if precision == "fp32":
        return Compute(device)
    # Weights trained in bf16 may overflow in fp16's range, hence fp16 only if trained so, or without bf16 units.
    if device.type == "cuda":
        half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return Compute(device, torch.float16 if precision == "fp16" else half)
    # With AMX bf16 is up to 12 times as fast, in channels_last only; without such units autocast is slower than fp32.
    if device.type == "cpu" and _cpu_has_bf16():
        return Compute(device, torch.bfloat16, channels_last=True)
    return Compute(device)


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@torch.no_grad()
def lay_out(network: nn.Module, memory_format: torch.memory_format, dims: int) -> None:
    """Bring the convolution weights (those of dims + 2 axes) into a memory format, in place."""
    if memory_format is not torch.contiguous_format:
        for p in network.parameters():
            if p.ndim == dims + 2:
                # by data, so that the parameter stays the one that the optimiser knows
                p.data = p.data.to(memory_format=memory_format)
