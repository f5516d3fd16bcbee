"""The thresholds are set on Linux with glibc, can be left alone, and keep freed memory mapped."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from client.malloc import VARIABLE

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"

# Activations of 0.9 MB taken and given back 300 times, as a training step does.
FAULTS = """
import ctypes, resource
from client.malloc import keep_activations_mapped
print(keep_activations_mapped(), keep_activations_mapped())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def step():
    blocks = [libc.malloc(900_000) for _ in range(4)]
    for block in blocks: ctypes.memset(block, 1, 900_000)
    for block in reversed(blocks): libc.free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(300): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(value: str | None) -> tuple[str, int]:
    env = {k: v for k, v in os.environ.items() if k != VARIABLE} | (
        {VARIABLE: value} if value else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, faults = done.stdout.splitlines()
    return first, int(faults)


@pytest.mark.skipif(not GLIBC, reason="not Linux with glibc")
def test_the_thresholds_end_the_page_faults_and_can_be_switched_off() -> None:
    (on, few), (off, many) = run(None), run("0")
    assert (on, off) == ("True True", "False False")
    assert few < 100 < many


@pytest.mark.skipif(GLIBC, reason="Linux with glibc")
def test_elsewhere_nothing_is_set() -> None:
    from client.malloc import keep_activations_mapped

    assert keep_activations_mapped() is False
