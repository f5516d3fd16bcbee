"""Is a node's NVIDIA driver new enough for the CUDA that torch brings? Asked before data is read.

Without the question torch says that there is no GPU: a silo whose device is `auto` would train on the
CPU, and one whose device is `cuda` would fail with words that name no driver.

    MDW-143 the driver is too old
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conf.errors import ConfigError

OLDEST: Final = {12: "525", 13: "580"}
"""The oldest driver for each CUDA (docs.nvidia.com/deploy/cuda-compatibility, table 1)."""
LIBRARY: Final = "libcuda.so.1"
RELEASE: Final = Path("/sys/module/nvidia/version")

CARDS: Final = Path("/proc/driver/nvidia/gpus")
"""Where the driver has a folder for each GPU, on Linux."""
_MODEL: Final = re.compile(r"^Model:\s*(\S.{0,80})", re.MULTILINE)


@dataclass(frozen=True)
class Driver:
    """The driver that a process finds: the newest CUDA that it runs, and its release where known."""

    cuda: tuple[int, int]
    release: str = ""

    def __str__(self) -> str:
        runs = f"CUDA {self.cuda[0]}.{self.cuda[1]}"
        return f"driver {self.release} ({runs})" if self.release else f"a driver for {runs}"


def found(library: str = LIBRARY, release: Path = RELEASE) -> Driver | None:
    """Return this node's driver; None where there is none.

    The version of CUDA is what counts: NVIDIA's packages for compatibility let a driver run a newer
    one than its own release would.
    """
    number = ctypes.c_int(0)
    try:
        status = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    if status != 0 or number.value <= 0:
        return None
    said = ""
    with suppress(OSError):
        said = release.read_text().strip()[:40]
    return Driver((number.value // 1000, number.value % 1000 // 10), said)


def cards(visible: int, folder: Path = CARDS) -> list[str]:
    """Return the names of the `visible` GPUs, from the driver's own files: asking its library makes
    a context in a process that trains nothing.
    """
    named = []
    for file in sorted(folder.glob("*/information")):
        with suppress(OSError):
            found = _MODEL.search(file.read_text(errors="replace"))
            named += [found[1].strip()] if found else []
    if len(named) >= visible and len(set(named)) == 1:
        return named[:visible]
    # Which of several kinds are the visible ones, the files do not say.
    return named if len(named) == visible else ["CUDA GPU"] * visible


def cuda_of_torch() -> str | None:
    """Return the CUDA that the installed torch brings; None for a build without."""
    import torch

    return torch.version.cuda


def check(silo: str, device: str | None, cuda: str | None, driver: Driver | None) -> None:
    """Raise ConfigError MDW-143 where a silo would use a GPU and the driver can't run torch's CUDA.

    `cuda` is torch's, None for a build without it. A node without a driver is no fault here: it has
    no GPU, and `client.device` says so where one is asked for.
    """
    if (
        cuda is None
        or driver is None
        or (device or "auto").partition(":")[0] not in ("auto", "cuda")
    ):
        return
    major = int(cuda.partition(".")[0])
    if driver.cuda[0] >= major:
        return
    oldest = OLDEST.get(major)
    needed = f"driver {oldest} or newer (CUDA {cuda})" if oldest else f"one for CUDA {cuda}"
    raise ConfigError(
        "MDW-143",
        f"{silo}: this node has {driver}; torch needs {needed}.",
        "Renew the node's driver, or use the image for its CUDA (environment: silo-cuda12), or train"
        " on the CPU (device: cpu).",
    )
