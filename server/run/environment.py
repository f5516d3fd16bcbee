"""What a run ran on: versions and devices, for the result and the report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from conf.code_digest import release_digest, tree_digest
from conf.schema import TrainerConf

PACKAGES = ("meadow", "flwr", "torch", "torchvision", "numpy", "ray", "hydra-core", "scikit-learn")


def environment(trainer: TrainerConf) -> dict[str, Any]:
    """Return versions by package and what this machine offers; nothing that names the machine or its user."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{p: v for p in PACKAGES if (v := _version(p))},
        },
        "code": release_digest(),
        "tree": tree_digest(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        or ["cpu"],
        "threads": trainer.threads,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
