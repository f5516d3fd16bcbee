"""Which release of Flower this tree is written for: looked at once, before a module that reaches into it is imported.

MDW-752 another version of Flower
"""

from __future__ import annotations

from importlib import metadata
from typing import Final

from conf.errors import IdentityError

WRITTEN_FOR: Final = "1.39"
"""Major and minor version; the same as pyproject.toml's pin."""


def require() -> None:
    """Raise IdentityError MDW-752 unless the installed Flower is of the release that this tree is written for.

    `server` and `client` call it when they are imported: both engines, the orchestrator and the node build on internals
    that another release has moved or changed without a word.
    """
    try:
        installed = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        installed = "none"
    if installed.split(".")[:2] != WRITTEN_FOR.split("."):
        what = f"Meadow is written for Flower {WRITTEN_FOR}, and {installed} is installed."
        raise IdentityError("MDW-752", what, f"Install flwr=={WRITTEN_FOR}.* here.")
