"""Which releases of Flower this tree supports: checked once, before a module that reaches into
Flower is imported.

MDW-752 another version of Flower
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

from conf.errors import IdentityError

LOWEST: Final = (1, 39)
"""Major and minor version of the first release that is supported."""
BELOW: Final = (1, 43)
"""Major and minor version of the first release that is not supported any more: nobody has tested it
yet.
"""
REQUIREMENT: Final = f"flwr>={LOWEST[0]}.{LOWEST[1]},<{BELOW[0]}.{BELOW[1]}"
"""The range in pip's words; pyproject.toml asks for the same."""

# Four digits are more than Flower will need, and few enough that a stranger's version costs nothing
# to read.
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(\.[\w.+]{1,100})?", re.ASCII)


def supports(version: str) -> bool:
    """Return whether a version of Flower is in the range, by its major and minor number alone."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return False
    return LOWEST <= (int(found[1]), int(found[2])) < BELOW


def require() -> None:
    """Raise IdentityError MDW-752 unless the installed Flower is in the range.

    `server` and `client` call it when they are imported: both engines, the orchestrator and the
    node build on internals that an untested release may have moved or changed without a word.
    """
    try:
        installed = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        installed = "none"
    if not supports(installed):
        lowest = ".".join(map(str, LOWEST))
        newest = f"{BELOW[0]}.{BELOW[1] - 1}"
        what = f"Meadow supports Flower {lowest} to {newest}, and {installed} is installed."
        raise IdentityError("MDW-752", what, f"Install '{REQUIREMENT}' here.")
