"""glibc's malloc, told to keep what a training step frees: the next step needs it again.

Convolution activations of about a megabyte are given back to the kernel at every step and faulted in again (up to
1.7 million page faults a round, 1.1 to 1.5 times slower, varying from run to run with the layout of the heap).
All three thresholds are needed: the first alone makes it worse, since setting it freezes the second at 128 KiB.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

VARIABLE = "MEADOW_MALLOC"
"""Environment variable; 0 leaves malloc as it is."""

# mallopt(3): parameter and bytes.
_TRIM_THRESHOLD = (-1, 1 << 30)  # the top of the heap goes back to the kernel only above this
_TOP_PAD = (-2, 64 << 20)  # the heap grows by this much more than asked for
_ARENA_MAX = (-8, 1)
_MMAP_THRESHOLD = (-3, 32 << 20)  # blocks below this come from the heap; glibc allows no more


@cache
def keep_activations_mapped() -> bool:
    """Set the three thresholds in this process, once; return whether they are set.

    Only on Linux with glibc, and not where `MEADOW_MALLOC=0`.
    """
    if os.environ.get(VARIABLE) == "0" or not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(*setting) for setting in (_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD)]
    return accepted == [1, 1, 1]


@cache
def share_one_heap() -> bool:
    """Let all threads of this process allocate from one heap, once; return whether they do.

    glibc gives each thread its own, and what one thread freed no other can use: an orchestrator
    that moves updates in many threads peaked a quarter higher, and was no faster. Call it before
    the threads are made.
    """
    if os.environ.get(VARIABLE) == "0" or not _glibc():
        return False
    return bool(ctypes.CDLL(None).mallopt(*_ARENA_MAX) == 1)


def give_back() -> None:
    """Give the heap's free pages back to the kernel: a large message and its answer need not be in
    memory both.
    """
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl and others don't know the name
        return False
