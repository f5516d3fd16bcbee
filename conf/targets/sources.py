"""The source files of a target: it and the neighbours that it imports, read once and counted.

Counted is what the code means (`conf.code_meaning`), so a comment changes nothing. Of an installed
package the modules of that package alone count; of what Meadow itself stands on nothing does but
the import path, because its releases may differ and are recorded for each silo.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from conf.code_meaning import meaning_of
from conf.errors import ConfigError
from conf.targets.place import INIT, OWN_PACKAGES, Place, nothing

FOUNDATIONS: Final = ("flwr", "numpy", "safetensors", "sklearn", "torch", "torchvision")
"""Packages that Meadow itself stands on."""
MOST_FILES: Final = 300
"""That one target may reach."""

_NEVER_NEIGHBOURS: Final = frozenset(
    {*sys.stdlib_module_names, *OWN_PACKAGES, *FOUNDATIONS, "meadow"}
)
"""First names that no file beside the target's takes the place of."""


@dataclass(frozen=True)
class Source:
    """One file: its path, and what was read there."""

    path: Path
    syntax: ast.Module
    is_package: bool

    def copy(self) -> ast.Module:
        """Return the syntax tree anew, to be changed."""
        return copy.deepcopy(self.syntax)


@dataclass(frozen=True)
class Sources:
    """The files that importing a target executes, by their module's name below `place.root`."""

    place: Place
    files: dict[str, Source] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The SHA-256, in hex, of what the files mean and how they are called."""
        lines = [f"{hashlib.sha256(self.place.target.encode()).hexdigest()}\n"]
        if self.files:
            lines = [f"{_digest(source)}  {name}\n" for name, source in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def packages(self) -> frozenset[str]:
        """The names of the folders that are imported on the way, with `__init__.py` or without."""
        above = {name.rpartition(".")[0] for name in self.files}
        every = {".".join(name.split(".")[:n]) for name in above for n in range(1, 20)}
        own = {name for name, source in self.files.items() if source.is_package}
        return frozenset((every | own) - {""})

    def neighbour(self, module: str, importer: str) -> str | None:
        """Return the name below the root of a module that a file imports by an absolute name.

        None for one that is not beside it: an installed package, say.
        """
        for name in _candidates(module, importer, self.files[importer].is_package):
            if name in self.files or name in self.packages:
                return name
        return None


def read(place: Place, key: str) -> Sources:
    """Return the files of a target; raises ConfigError MDW-170 or MDW-171."""
    sources = Sources(place)
    if place.installed and place.module.split(".")[0] in FOUNDATIONS:
        return sources
    todo = [place.module]
    while todo:
        name = todo.pop()
        if name in sources.files:
            continue
        file = _file(place, name)
        if file is None:
            continue
        if len(sources.files) >= MOST_FILES:
            what = f"{key}: {place.target} imports more than {MOST_FILES} files beside it."
            raise nothing(what, "Write a small module of your own that imports what it needs.")
        source = Source(file, _parsed(file, key), file.stem == INIT)
        sources.files[name] = source
        todo.extend(_packages_of(name))
        todo.extend(_reached(source, name, place))
    return sources


def _packages_of(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _file(place: Place, name: str) -> Path | None:
    if not all(part.isidentifier() for part in name.split(".")) and name != place.module:
        return None
    stem = place.root.joinpath(*name.split("."))
    for file in (stem / f"{INIT}.py", stem.with_name(f"{stem.name}.py")):
        if file.is_file():
            return file
    return None


def _parsed(file: Path, key: str) -> ast.Module:
    try:
        return ast.parse(file.read_bytes().replace(b"\r\n", b"\n"), filename=str(file))
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        at = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            "MDW-171", f"{key}: {file}{at} can't be read as Python: {reason}.", "Correct it."
        ) from None


def _reached(source: Source, name: str, place: Place) -> Iterator[str]:
    """Yield the modules beside a file that it may import, inside functions as well."""
    for node in ast.walk(source.syntax):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _absolute(alias.name, source, name, place)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = _base(node, name, source.is_package)
            yield from _with_members(base, node)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for module in _with_members(node.module, node):
                yield from _absolute(module, source, name, place)


def _with_members(module: str, node: ast.ImportFrom) -> Iterator[str]:
    if module:
        yield module
    for alias in node.names:
        yield f"{module}.{alias.name}".lstrip(".")


def _base(node: ast.ImportFrom, importer: str, is_package: bool) -> str:
    parts = importer.split(".")
    up = node.level - 1 if is_package else node.level
    above = parts[: len(parts) - up] if up else parts
    return ".".join([*above, *([node.module] if node.module else [])])


def _absolute(module: str, source: Source, importer: str, place: Place) -> Iterator[str]:
    first = module.split(".")[0]
    if first in _NEVER_NEIGHBOURS:
        return
    if place.installed and first != place.module.split(".")[0]:
        return
    for name in _candidates(module, importer, source.is_package):
        if _file(place, name) is not None:
            yield name
            return


def _candidates(module: str, importer: str, is_package: bool) -> list[str]:
    """Return what an absolute name may be: beside the file, as for a script, or below the root."""
    if module.split(".")[0] in _NEVER_NEIGHBOURS:
        return []
    folder = importer if is_package else importer.rpartition(".")[0]
    beside = f"{folder}.{module}" if folder else module
    return [beside, module] if beside != module else [module]


def _digest(source: Source) -> str:
    return hashlib.sha256(meaning_of(source.syntax).encode()).hexdigest()
