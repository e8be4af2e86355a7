"""How tensors lie in a device's memory, and the switches of its libraries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def choose_memory_format(
    asked: bool | str, network: nn.Module, dims: int, device: torch.device, half: bool
) -> torch.memory_format:
    """Return channels_last of the network's dims, or the contiguous format.

    Instance norm copies back to contiguous in every layer. "auto" therefore takes channels_last for networks without
    it only: on a CPU always, on a GPU in half precision.
    """
    if asked == "auto":
        norms = (nn.InstanceNorm2d, nn.InstanceNorm3d)
        free = not any(isinstance(m, norms) for m in network.modules())
        asked = {"cuda": half and free, "cpu": free}.get(device.type, False)
    if not asked:
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


@contextmanager
def library_switches(device: torch.device, deterministic: bool, threads: int) -> Iterator[None]:
    """Choose cuDNN's fastest kernels for fixed shapes, or only deterministic ones, and threads; undo it afterwards."""
    before = (
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
    )
    torch.set_num_threads(threads)
    # the search for the fastest kernel is a matter of timing, so it may choose differently next time
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    # Products on a single stream are deterministic already, but torch asks for a library setting that has to be made
    # before the process starts; warn_only lets those pass, and the filter below stops at every other operator.
    torch.use_deterministic_algorithms(deterministic, warn_only=deterministic)
    try:
        with warnings.catch_warnings():
            if deterministic:
                warnings.filterwarnings("error", message=".*does not have a deterministic implementation.*")
                warnings.filterwarnings("ignore", message=".*CUBLAS_WORKSPACE_CONFIG.*")
            yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.set_num_threads(before[3])
