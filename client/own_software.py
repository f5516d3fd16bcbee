"""What this process runs, for the server's records; nothing that names the machine or its user."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from conf.code_digest import release_digest, run_digest, run_files
from conf.errors import SiloError
from conf.meadow_version import release
from conf.schema import RunScope
from strategies.wire.software import LONGEST, Software

DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
"""Where NVIDIA's driver says its version on Linux, in containers as well; asking its library would
load it.
"""

NOTHING: Final[Mapping[str, str]] = {}

_DRIVER: Final = re.compile(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)")


def software(scope: RunScope, data: str = "", computed: Mapping[str, str] = NOTHING) -> Software:
    """Return what this process runs, the digest of the code that it executes for a run, the
    fingerprint of its `data`, and how it `computed` (`client.compute.computed`).
    """
    files = run_files(scope.task.name, scope.model.name, scope.strategy.name)
    plain = {name: _plain(value) for name, value in computed.items()}
    return dataclasses.replace(_software(files), data=data, **plain)


@cache
def _software(files: tuple[str, ...]) -> Software:
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "driver": driver(DRIVER_FILE),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "meadow": release(),
        "flwr": _version("flwr"),
        "code": release_digest(),
        "run_code": _run_code(files),
    }
    return Software(**{name: _plain(value) for name, value in facts.items()})


def driver(file: Path) -> str:
    """Return the version of NVIDIA's driver that a file tells, empty where there is none."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return ""
    found = _DRIVER.search(text)
    return found[1] if found else ""


def _run_code(files: tuple[str, ...]) -> str:
    try:
        return run_digest(files)
    except SiloError:
        # A run of a release that the owner accepts may name a strategy that is not in this tree:
        # only
        # the server executes it.
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _plain(value: object) -> str:
    """Return a text that the server's admission takes: a build may give itself any name."""
    text = str(value).encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in text)[:LONGEST]
