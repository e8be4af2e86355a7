"""Number formats: which one, where, and the gradient scaling that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from unetkit.errors import RecipeError

Format = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_format(asked: str, device: torch.device) -> Format:
    """Return the format that training computes in: what was asked, or for "auto" the fastest safe one.

    bf16 on GPUs with bf16 units and on CPUs with AMX (without such units bf16 is slower than fp32), fp16 on older
    GPUs, else fp32. Raises RecipeError for bf16 on a GPU without it.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "bf16" and not native:
            name = torch.cuda.get_device_name(device)
            raise RecipeError(f"train.precision=bf16: {name} has no bf16 units; use fp16, fp32 or auto")
        return asked if asked != "auto" else "bf16" if native else "fp16"  # type: ignore[return-value]
    if asked == "auto":
        return "bf16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "fp32"
    return asked  # type: ignore[return-value]


class Precision:
    """Autocast and gradient scaling of one format on one device; the scaler does nothing outside fp16."""

    def __init__(self, chosen: Format, device: torch.device) -> None:
        self.format = chosen
        self.device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which convolutions and products run in the format; fp32 changes nothing."""
        if self.format == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, _DTYPES[self.format])
