"""Weights from elsewhere: read a file or fetch a timm tag, rename, and copy in what fits."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unetkit.errors import ModelError

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Pairs (regular expression, replacement as in `re.sub`), all applied in turn to every key."""


def source_weights(weights: str | None, pretrained: bool = False, tag: str = "") -> dict[str, Tensor] | None:
    """Return the tensors that a builder's options `weights` (a file) or `pretrained` (timm's `tag`) ask for.

    None if neither is asked for. Raises ModelError if both are, or if the tensors cannot be had.
    """
    if weights and pretrained:
        raise ModelError(f"weights={weights} and pretrained=true contradict each other; give one of them")
    if weights:
        return read_weights(weights)
    return _fetch_weights(tag) if pretrained else None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors in a .safetensors or .npz file by name. Raises ModelError if it is neither or damaged."""
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", ".npz"):
        raise ModelError(f"weights {path}: give a .safetensors or .npz file; convert others with safetensors.torch")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # a pickle inside would run code
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except FileNotFoundError:
        raise ModelError(f"weights {path}: there is no such file") from None
    except (OSError, ValueError, BadZipFile, SafetensorError) as error:
        raise ModelError(f"weights {path}: cannot be read ({_first_line(error)}); fetch the file again") from error


def _fetch_weights(tag: str) -> dict[str, Tensor]:
    import timm  # slow to import, and only needed here

    try:
        return timm.create_model(tag, pretrained=True).state_dict()
    except Exception as error:  # what fails below depends on the hub client: network, disk, missing tag
        raise ModelError(
            f"the weights '{tag}' cannot be fetched ({_first_line(error)}); "
            "get the file elsewhere and give weights=PATH, or set pretrained=false"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def rename(state: dict[str, Tensor], pairs: Renames) -> dict[str, Tensor]:
    """Return `state` with every pair applied to every key."""
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


def load_matching(model: nn.Module, state: dict[str, Tensor]) -> int:
    """Copy the tensors of `state` whose name and shape are also the model's, and return how many there were.

    Others stay as they are: heads for other classes, stems for other channels. Raises ModelError if nothing fits.
    """
    own = model.state_dict()
    fitting = {key: tensor for key, tensor in state.items() if key in own and tensor.shape == own[key].shape}
    if not fitting:
        raise ModelError("none of the weights fits this model by name and shape; check that they belong to it")
    # strict=False passes over missing keys only: wrong shapes are left out above
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
