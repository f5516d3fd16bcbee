"""Names and what they stand for: a module of this tree, and never anything else."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from conf.errors import ConfigError
from conf.schema_keys import nearest


def registered(package: ModuleType) -> list[str]:
    """Return the names that a package offers: its modules, without `base` and packages."""
    return [
        m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and not m.ispkg
    ]


def module_named(package: ModuleType, name: str, kind: str) -> ModuleType:
    """Return the module of `package` called `name`; only names that `registered` lists are ever
    imported.

    Raises ConfigError MDW-102 for any other, with the nearest one.
    """
    known = registered(package)
    if name not in known:
        raise ConfigError(
            "MDW-102",
            f"{kind}.name={name[:100]}: there is no {kind} of that name.",
            nearest(name, known),
        )
    return importlib.import_module(f"{package.__name__}.{name}")
