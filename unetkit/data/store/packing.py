"""Intensities in two bytes a voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from unetkit.plan.plan import Normalization

_HALF_MAX = 65504.0
_WORD_MAX = 32767


def packed(data: np.ndarray, rules: Sequence[Normalization]) -> np.ndarray:
    """Return prepared intensities float32 [C, *S] as a store and the memory hold them.

    float16, which rounds by at most 2**-11 of a value (and by 2**-25 below 6e-5): a thousandth of a grey value step
    of CT. Whole numbers within +-32767 that no rule normalised are int16 and exact. Values beyond 65504 stay float32.
    """
    values = torch.from_numpy(data)
    largest = float(values.abs().amax()) if values.numel() else 0.0
    whole = all(rule.scheme == "none" for rule in rules)
    if whole and largest <= _WORD_MAX and bool((values == values.round()).all()):
        return values.to(torch.int16).numpy()
    return values.half().numpy() if largest <= _HALF_MAX else data


def unpacked(data: np.ndarray) -> np.ndarray:
    """Return a copy of packed intensities as float32."""
    # Half as long as numpy's conversion from float16.
    return torch.from_numpy(data).to(torch.float32, copy=True).numpy()
