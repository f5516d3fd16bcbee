"""Which release of Meadow this is: of the installed distribution, or of the source tree."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "meadow-federated"
"""What the package index calls Meadow: another has the name `meadow` there."""
ROOT: Final = Path(__file__).resolve().parent.parent


def release(root: Path = ROOT) -> str:
    """Return the version; empty in a job's snapshot, which is known by its digest."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return _of_tree(root / "pyproject.toml")


def _of_tree(file: Path) -> str:
    try:
        project = tomllib.loads(file.read_text()).get("project", {})
    except (OSError, ValueError):
        return ""
    return str(project.get("version", "")) if project.get("name") == DISTRIBUTION else ""
