"""Importing a target: from the files as they were counted, under names made of their digest.

Two files of one name from two folders are two modules, `sys.path` stays as it is, and a file that
changes after it was read changes nothing. A file imports its neighbours as a script would; these
imports are led to the modules that were counted.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, Final

from conf.errors import ConfigError, MeadowError
from conf.schema_keys import nearest
from conf.targets.place import nothing
from conf.targets.sources import Source, Sources

PREFIX: Final = "meadow_outside_"
"""Of the modules' names; 16 digits of the digest follow."""

_lock: Final = threading.RLock()
_served: dict[str, Sources] = {}


def imported(sources: Sources, key: str) -> Any:
    """Return the class or function of a target, imported once per process and digest.

    Raises ConfigError: MDW-171 where its code raises, MDW-170 where it has no such name.
    """
    place = sources.place
    with _lock:
        module = _module(sources, key)
    try:
        return getattr(module, place.attribute)
    except AttributeError:
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        what = f"{key}={place.target}: {place.file} has no {place.attribute!r}."
        raise nothing(what, nearest(place.attribute, names)) from None


def _module(sources: Sources, key: str) -> ModuleType:
    place = sources.place
    name = place.module
    if not place.installed:
        _serve(sources)
        name = f"{_prefix(sources)}.{place.module}"
    try:
        return importlib.import_module(name)
    except MeadowError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever a foreign module does when it is imported.
        raise _raised(sources, error, key) from error


def _raised(sources: Sources, error: BaseException, key: str) -> ConfigError:
    own = {str(source.path) for source in sources.files.values()}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    at = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else sources.place.target
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    hint = "It is imported as a module: nothing in it may end the program or need a terminal."
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        hint = "Correct the import: the module is there, and has no such name."
    elif isinstance(error, ImportError):
        hint = "Install what it imports, and declare it there: requires = ('NAME>=VERSION',)."
    return ConfigError("MDW-171", f"{key}: importing {at} failed: {reason}.", hint)


def _prefix(sources: Sources) -> str:
    return PREFIX + sources.digest[:16]


def _serve(sources: Sources) -> None:
    """Make the files importable below their prefix."""
    prefix = _prefix(sources)
    if prefix in _served:
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # Last: it serves nothing but its own prefix.
        sys.meta_path.append(_Finder())
    _served[prefix] = sources
    root = ModuleType(prefix)
    root.__path__ = []
    sys.modules[prefix] = root


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the targets that this process has read."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        prefix, _, name = fullname.partition(".")
        sources = _served.get(prefix)
        if sources is None:
            return None
        source = sources.files.get(name)
        if source is not None:
            return importlib.util.spec_from_file_location(
                fullname,
                source.path,
                loader=_Loader(fullname, sources, source, prefix),
                submodule_search_locations=[] if source.is_package else None,
            )
        if name not in sources.packages:
            return None
        folder = ModuleSpec(fullname, None, is_package=True)
        folder.submodule_search_locations = []
        return folder


class _Loader(SourceFileLoader):
    """Runs a file's text as it was read, its neighbours' imports led to theirs."""

    def __init__(self, fullname: str, sources: Sources, source: Source, prefix: str) -> None:
        super().__init__(fullname, str(source.path))
        self._sources = sources
        self._source = source
        self._prefix = prefix

    def get_code(self, fullname: str) -> CodeType:
        """See importlib.abc.InspectLoader; nothing is read from the disk or cached there."""
        name = fullname.partition(".")[2]
        rewritten = _ToNeighbours(self._sources, name, self._prefix).visit(self._source.copy())
        code: CodeType = self.source_to_code(rewritten, str(self._source.path))
        return code


class _ToNeighbours(ast.NodeTransformer):
    """Gives the neighbours that a file imports the names under which they are served."""

    def __init__(self, sources: Sources, importer: str, prefix: str) -> None:
        self._sources = sources
        self._importer = importer
        self._prefix = prefix

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        """`from columns import X` becomes `from PREFIX.columns import X`."""
        found = None
        if not node.level and node.module:
            found = self._sources.neighbour(node.module, self._importer)
        if found is not None:
            node.module = f"{self._prefix}.{found}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.Import]:
        """`import columns` becomes `import PREFIX.columns as columns`."""
        made = []
        for alias in node.names:
            made += self._one(alias, node)
        return made

    def _one(self, alias: ast.alias, node: ast.Import) -> list[ast.Import]:
        found = self._sources.neighbour(alias.name, self._importer)
        if found is None:
            return [_import(alias, node)]
        full = f"{self._prefix}.{found}"
        first, _, inner = alias.name.partition(".")
        if alias.asname or not inner:
            return [_import(ast.alias(full, alias.asname or first), node)]
        # `import shop.columns` binds `shop`.
        top = full.removesuffix(f".{inner}")
        whole = ast.alias(full, f"_{self._prefix}")
        return [_import(whole, node), _import(ast.alias(top, first), node)]


def _import(alias: ast.alias, like: ast.Import) -> ast.Import:
    made = ast.copy_location(ast.Import([ast.copy_location(alias, like)]), like)
    return ast.fix_missing_locations(made)
