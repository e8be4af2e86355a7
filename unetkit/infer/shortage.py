"""Memory that does not suffice for a case: told apart from bugs, and said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from unetkit.errors import DataError

REMEDY = "close other programs, lower infer.window_batch, use device=cpu, or cut the image into parts"
"""What to do when a case does not fit."""

# What torch's and the C++ library's allocators say on a CPU, where no exception class of its own is raised.
_CPU_FULL = ("can't allocate memory", "not enough memory", "std::bad_alloc")

# Taken to be free where the system does not say: most machines have as much.
_HOST_WITHOUT_PROC = 8 << 30


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CPU_FULL)


@contextmanager
def explained_shortage(case_id: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory into a DataError that names the case and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise DataError(f"{case_id or 'image'}: not enough {where} for this case; {remedy}") from error


def free_memory(device: torch.device) -> int:
    """Return the bytes that a device has free; of the host's memory what Linux calls available."""
    if device.type == "cuda":
        # What torch keeps for itself without using it is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(_available(), _group_limit())


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return _HOST_WITHOUT_PROC


def _group_limit() -> int:
    """Bytes that a container or a job of a scheduler may still take; without a limit more than there can be."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return 1 << 62
    return max(most - used, 0)
