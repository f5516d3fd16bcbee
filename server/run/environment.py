"""What a run ran on: versions and devices, for the result and the report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from client import driver
from client.placement import visible
from conf.code_digest import release_digest, tree_digest
from conf.meadow_version import release
from conf.schema import Conf
from conf.targets.known import GROUPS

PACKAGES = ("flwr", "torch", "torchvision", "numpy", "ray", "hydra-core", "scikit-learn")


def environment(conf: Conf) -> dict[str, Any]:
    """Return versions by package and what this machine offers; nothing that names the machine or
    its user.
    """
    installed = {"meadow": release(), **{package: _version(package) for package in PACKAGES}}
    versions = {name: version for name, version in installed.items() if version}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "code": release_digest(),
        "tree": tree_digest(),
        "outside": outside(conf),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": driver.cards(visible()) or ["cpu"],
        "threads": conf.trainer.threads,
    }


def outside(conf: Conf) -> dict[str, str]:
    """Return the digests of the code from outside this tree, by kind and name."""
    named = [(group, getattr(conf, group)) for group in GROUPS]
    return {f"{group} {own.name}": own.code for group, own in named if getattr(own, "code", "")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
