"""Names and what they stand for: a module of this tree, and never anything else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from conf.errors import ConfigError
from conf.schema_keys import nearest


def registered(package: ModuleType) -> list[str]:
    """Return the names that a package offers: its modules, without `base` and packages."""
    return _modules(package.__path__)


def registered_in(folder: str) -> list[str]:
    """Return the names that a folder of client/ offers, without importing anything of it."""
    return _modules([str(Path(__file__).with_name(folder))])


def _modules(path: Iterable[str]) -> list[str]:
    return [m.name for m in pkgutil.iter_modules(path) if m.name != "base" and not m.ispkg]


def module_named(package: ModuleType, name: str, kind: str) -> ModuleType:
    """Return the module of `package` called `name`; only names that `registered` lists are ever
    imported.

    Raises ConfigError MDW-102 for any other, with the nearest one.
    """
    _check(name, registered(package), kind)
    return importlib.import_module(f"{package.__name__}.{name}")


def check_registered(folder: str, name: str, kind: str) -> None:
    """Raise what `module_named` would for a name that it does not know, before anything is imported."""
    _check(name, registered_in(folder), kind)


def _check(name: str, known: list[str], kind: str) -> None:
    if name not in known:
        what = f"{kind}.name={name[:100]}: there is no {kind} of that name."
        raise ConfigError("MDW-102", what, nearest(name, known))
