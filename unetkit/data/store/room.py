"""How many bytes prepared cases take, and how many there are on the disk and in memory."""

from __future__ import annotations

import os
import shutil
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np

from unetkit.data.preprocess import expected_shape
from unetkit.data.volumes import peek_volume
from unetkit.errors import DataError, UnetkitError
from unetkit.plan.plan import Plan
from unetkit.types import Case, Volume

_IMAGE_BYTES = 2
_UNKNOWN_MEMORY = 8 << 30
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def prepared_bytes(case: Case, plan: Plan, *, soft: bool = False) -> int:
    """Return how many bytes a case takes once it is prepared, from its headers; a crop may leave less.

    `soft`: the codes of soft labels count too. A case whose files cannot be read takes none: it is named where it is
    prepared.
    """
    try:
        peeks = [peek_volume(path) for path in case.images]
        first = peeks[0]
        # No voxel is held: all of them are one and the same zero.
        data = np.broadcast_to(np.int8(0), (1, *first.shape))
        spacing = (1.0,) * first.dims if first.affine is None else nib.affines.voxel_sizes(first.affine)
        shape = first.shape
        # Without an affine the spacing is not known here; the file's own grid is the best guess.
        if first.affine is not None or plan.resize is not None:
            shape = expected_shape(Volume(data, tuple(map(float, spacing)), first.affine), plan)
    except (UnetkitError, ValueError, IndexError, np.linalg.LinAlgError):
        return 0
    channels = sum(peek.channels for peek in peeks)
    # soft codes and an earlier stage's map lie on the network's grid
    images = prod(shape) * (channels * _IMAGE_BYTES + plan.labels.layers * (soft + plan.previous))
    # The label is held on the case's own grid instead where that is larger (validation).
    return images + max(prod(shape), prod(first.shape)) * plan.labels.layers


def require_room(folder: Path, needed: int, cases: int) -> None:
    """Raise DataError if the disk of a folder has less room than `needed` bytes."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # some network disks do not tell; writing will
        return
    if free < needed:
        raise DataError(full_disk(folder, f"{cases} prepared cases take about {gigabytes(needed)}", free))


def full_disk(folder: Path, needed: str, free: int) -> str:
    """Return the one line for a disk that has no room: what is needed, what there is, what to do."""
    return (
        f"data.store={folder}: {needed}, and {gigabytes(free)} are free there; make room, name another folder with "
        "data.store=FOLDER, or prepare cases anew at each use with data.cache=none"
    )


def gigabytes(number: int) -> str:
    """Return bytes as people read them."""
    return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"


def available_memory() -> int:
    """Return the bytes that this process can still get without anything being swapped out."""
    found = [left for left in (_of_system(), *map(_of_group, _CGROUPS)) if left is not None]
    return max(0, min(found)) if found else _UNKNOWN_MEMORY


def _of_system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        # No Linux: half of all there is.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return None


def _of_group(files: tuple[str, str]) -> int | None:
    """Containers may have less than the machine."""
    try:
        limit, used = (int(Path(file).read_text(encoding="utf-8")) for file in files)
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return limit - used
