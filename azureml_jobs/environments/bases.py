"""What the images are built on: reads `bases.yaml`, the one place that says it.

base = base_of(folder)      # of a Docker context, by the FROM of its Dockerfile
base.python, base.platform  # "3.11", "manylinux_2_28_x86_64"
images()["silo"].cuda       # "13.0"; None for a CPU
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
FILE: Final = FOLDER / "bases.yaml"
_FROM: Final = re.compile(r"^FROM\s+(?:--\S+\s+)*(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Base:
    """A base image, and what it brings."""

    image: str
    """Registry, repository and tag."""
    python: str
    platform: str
    """A tag of wheels, such as manylinux_2_28_x86_64."""
    digest: str | None = None
    """sha256:...; None while nobody has pinned it."""
    size_mb: int | None = None
    """Its compressed size as its registry publishes it; None where nobody has asked."""

    @property
    def reference(self) -> str:
        """Return what a Dockerfile's FROM says."""
        return f"{self.image}@{self.digest}" if self.digest else self.image


@dataclass(frozen=True)
class Image:
    """One of the images of this folder: which CUDA its packages bring."""

    name: str
    base: Base
    cuda: str | None = None
    driver: str | None = None
    """The oldest of NVIDIA's drivers that runs this CUDA."""
    torch: str | None = None
    """Its torch, where that is another than the lock's."""

    @property
    def folder(self) -> Path:
        """Return the folder that is its Docker context."""
        return FOLDER / self.name


def bases() -> dict[str, Base]:
    """Return the declared bases by their image."""
    return {one["image"]: Base(**one) for one in _declared()["bases"]}


def images() -> dict[str, Image]:
    """Return the images by their name."""
    found = {}
    for name, facts in _declared()["images"].items():
        base = base_of(FOLDER / name)
        assert base is not None, f"{FILE.name} declares no base for {name}/Dockerfile"
        found[name] = Image(name, base, **facts)
    return found


def from_source() -> list[str]:
    """Return the packages that have no wheels."""
    return list(_declared()["from_source"])


def base_of(folder: Path) -> Base | None:
    """Return the base that a Docker context stands on; None where it is not a declared one.

    Of a Dockerfile with several stages, that of the last.
    """
    stages = _FROM.findall((folder / "Dockerfile").read_text())
    if not stages:
        return None
    image, _, _ = stages[-1].partition("@")
    return bases().get(image)


@cache
def _declared() -> dict[str, Any]:
    declared: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return declared
