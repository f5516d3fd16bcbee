"""What a run ran on: versions and devices, for the result and the report."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from conf.code_digest import release_digest, tree_digest
from conf.schema import Conf

PACKAGES = ("meadow", "flwr", "torch", "torchvision", "numpy", "ray", "hydra-core", "scikit-learn")


def environment(conf: Conf) -> dict[str, Any]:
    """Return versions by package and what this machine offers; nothing that names the machine or
    its user.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            **{p: v for p in PACKAGES if (v := _version(p))},
        },
        "code": release_digest(),
        "tree": tree_digest(),
        "strategy_file": _strategy_file(getattr(conf.strategy, "target", "")),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        or ["cpu"],
        "threads": conf.trainer.threads,
    }


def _strategy_file(target: str) -> str:
    """Return the SHA-256 of the user's own file that a strategy comes from, empty where it comes
    from no file.
    """
    path, separator, _ = target.rpartition(":")
    if not separator or not path.endswith(".py"):
        return ""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        # The strategy says what is wrong with its file, in words of its own.
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
