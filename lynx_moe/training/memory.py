"""Keep the C library from giving large blocks back to the kernel between two steps of a CPU training."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for the two parameters of mallopt


def keep_freed_memory() -> bool:
    """Make glibc reuse freed tensor memory instead of unmapping it; returns whether it could be done.

    Activations of a few megabytes lie above glibc's mmap threshold: each is mapped, zeroed page by page by the kernel,
    and unmapped again, every step. Measured on the pocket base: `docs/performance.md`. It changes no result; the
    process keeps its peak memory until it ends. Does nothing outside Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
