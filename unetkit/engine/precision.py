"""Number formats: which one, where, and the gradient scaling that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from unetkit.errors import RecipeError
from unetkit.infer.device import pick_compute

Format = Literal["fp32", "bf16", "fp16"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The formats of autocast."""


def choose_format(asked: str, device: torch.device) -> Format:
    """Return the format that training computes in: what was asked, or for "auto" that of prediction on the device.

    Raises RecipeError for bf16 on a GPU without units for it, which would emulate it slowly.
    """
    if asked == "bf16" and device.type == "cuda" and pick_compute(device, asked).dtype != torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        raise RecipeError(f"train.precision=bf16: {name} has no bf16 units; use fp16, fp32 or auto")
    if asked in ("fp32", "bf16", "fp16"):
        return asked  # type: ignore[return-value]
    names: dict[torch.dtype, Format] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(pick_compute(device).dtype, "fp32")


class Precision:
    """Autocast and gradient scaling of one format on one device; the scaler does nothing outside fp16."""

    def __init__(self, chosen: Format, device: torch.device) -> None:
        self.format = chosen
        self.device_type = device.type
        # small gradients underflow fp16; bf16 has the range of fp32 and needs no scaling
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which convolutions and products run in the format; fp32 changes nothing."""
        if self.format == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, HALF[self.format])
