"""Keep freed memory instead of returning it to the kernel after every large temporary.

glibc maps each array above 128 KiB anew and unmaps it when freed, so memory-bound operators spend most of their time
on page faults. The price of keeping it: resident memory stays at its peak. That is a decision about the whole
process, so only the command line makes it.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_GIB = 1 << 30
_INT_MAX = (1 << 31) - 1


def keep_heap() -> bool:
    """Tell glibc to keep freed memory for reuse; return whether it listened (other C libraries do not)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        # musl has no such file, and no such function in its own
        libc = ctypes.CDLL("libc.so.6")
        # either setting alone changes nothing: both or none
        return libc.mallopt(_M_MMAP_THRESHOLD, _GIB) == 1 and libc.mallopt(_M_TRIM_THRESHOLD, _INT_MAX) == 1
    except (OSError, AttributeError):
        return False
