"""Whether what Python finds under Meadow's names is Meadow: six short names, which others have too.

Flower's quickstarts have a `server.py` and a `client.py`, many folders a `conf.py`, and the package
index a `meadow`. Python takes the first on its path, and what happens then nobody could guess. So
`import meadow`, the command and every job look first, and say it in one sentence.

Nothing of Meadow is imported here: it may be the very thing that is not there.

    MDW-179 another's module has the name of one of Meadow's
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
NAMES: Final = ("azureml_jobs", "client", "conf", "meadow", "server", "strategies")
"""Under which Python has to find what lies in `ROOT`."""


class Shadowed(ImportError):
    """Python finds another's module under one of Meadow's names."""


def check(root: Path = ROOT) -> None:
    """Raise Shadowed, whose text says which file is in the way and what to do."""
    for name in NAMES:
        origin = _origin(name)
        if origin is None or origin.parent not in (root, root / name):
            raise Shadowed(_text(name, origin, root))


def stop_if_shadowed() -> None:
    """End the program with status 2, as for a mistake in a configuration, where a name is taken."""
    try:
        check()
    except Shadowed as error:
        print(f"error {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _origin(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None


def _text(name: str, origin: Path | None, root: Path) -> str:
    if origin is None:
        return (
            f"MDW-179: Python finds no module `{name}`, though Meadow is in {root}."
            " Install Meadow again: another distribution may have been removed with its files."
        )
    where = "Rename it, or start from another folder."
    if "site-packages" in origin.parts:
        where = (
            "Uninstall the distribution that it is of, or give Meadow an environment of its own."
        )
    return f"MDW-179: `import {name}` finds {origin}, not Meadow's in {root}. {where}"
