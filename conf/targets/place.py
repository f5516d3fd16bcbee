"""Where a target's code lies, found without importing anything.

wine.py:Wine                  a file, with the neighbours that it imports
shop/wine.py:Wine             the same; in a folder with `__init__.py` it is a module of a package
shop:Wine                     a folder: its `__init__.py`, or the one module that defines the name
package.module.Wine           an import path: an installed package, or one of the current folder
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from conf.errors import ConfigError
from conf.files.homes import expanded

TREE: Final = Path(__file__).resolve().parents[2]
OWN_PACKAGES: Final = ("azureml_jobs", "client", "conf", "server", "strategies")
"""This tree's packages; its own tasks, models and strategies are chosen by name."""
FORM: Final = "Write FILE.py:Class, FOLDER:Class or package.module.Class."
MOST_MODULES: Final = 200
"""In which a folder's class is looked for."""
INIT: Final = "__init__"

_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Place:
    """A class or function: `attribute` of `module`, below `root`, or in an installed package."""

    module: str
    attribute: str
    file: Path
    root: Path
    installed: bool = False

    @property
    def name(self) -> str:
        """What it is called in configurations, policies and reports, such as `wine.Wine`.

        The last part of the module; of an installed package the first.
        """
        parts = self.module.split(".")
        first = parts[0] if self.installed else parts[-1]
        word = re.sub(r"\W", "_", first, flags=re.ASCII)
        return f"{word[:64]}.{self.attribute[:64]}"

    @property
    def target(self) -> str:
        """The place as a target that means the same from any folder."""
        if self.installed:
            return f"{self.module}.{self.attribute}"
        return f"{self.file}:{self.attribute}"


def locate(target: str, key: str) -> Place:
    """Return where the target is; `key` is the configuration's, for the error.

    Raises ConfigError MDW-170 where there is nothing.
    """
    path, colon, attribute = target.rpartition(":")
    if not colon:
        return _by_import_path(target, key)
    if not _IDENTIFIER.fullmatch(attribute):
        raise nothing(f"{key}={target}: {attribute!r} is not the name of a class.", FORM)
    # Not resolved: the neighbours of a link are those beside it.
    place = Path(os.path.abspath(expanded(path)))
    if path.endswith(".py"):
        if not place.is_file():
            raise nothing(f"{key}: there is no file {path}.", f"Looked for it from {Path.cwd()}.")
        return _in_file(place, attribute, key)
    if not place.is_dir():
        raise nothing(f"{key}: there is no folder {path}.", f"Looked for it from {Path.cwd()}.")
    return _in_file(_module_in(place, attribute, key), attribute, key)


def nothing(what: str, hint: str) -> ConfigError:
    """Return the error of a place where there is nothing."""
    return ConfigError("MDW-170", what, hint)


def bound_names(syntax: ast.Module) -> set[str] | None:
    """Return the names that a module binds at its top; None where only running it would tell."""
    names: set[str] = set()
    for node in syntax.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(one.id for one in targets if isinstance(one, ast.Name))
        elif not isinstance(node, ast.Expr):
            # An `if` or a `try` may bind anything.
            return None
    return None if names & {"*", "__getattr__"} else names


def _in_file(file: Path, attribute: str, key: str) -> Place:
    own = file.is_relative_to(TREE) and file.relative_to(TREE).parts[0] in OWN_PACKAGES
    if own:
        what = f"{key}: {file} is of this tree, whose own are chosen by name."
        raise nothing(what, "Write for instance task=digits, model=cnn or strategy=fedprox.")
    parts = [] if file.stem == INIT else [file.stem]
    root = file.parent
    while (root / f"{INIT}.py").is_file() and _IDENTIFIER.fullmatch(root.name):
        parts.insert(0, root.name)
        root = root.parent
    return Place(".".join(parts), attribute, file, root)


def _module_in(folder: Path, attribute: str, key: str) -> Path:
    """Return the file of a folder that has the name: its `__init__.py`, or the one that defines it.

    Raises ConfigError MDW-170 where none does, or several do.
    """
    init = folder / f"{INIT}.py"
    if init.is_file() and _binds(init, attribute):
        return init
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py") and entry.is_file():
                files.append(folder / entry.name)
            if len(files) > MOST_MODULES:
                what = f"{key}: {folder} has more than {MOST_MODULES} Python files."
                raise nothing(what, f"Name the file: {folder.name}/FILE.py:{attribute}.")
    found = [file for file in sorted(files) if file != init and _defines(file, attribute)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(file.name for file in found) or "none"
    what = f"{key}: one module of {folder} must define {attribute}; these do: {there}."
    raise nothing(what, f"Name the file: {folder.name}/FILE.py:{attribute}.")


def _binds(file: Path, attribute: str) -> bool:
    try:
        names = bound_names(ast.parse(file.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return False
    return names is None or attribute in names


def _defines(file: Path, attribute: str) -> bool:
    try:
        syntax = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        # Another module of the folder need not be readable.
        return False
    kinds = (ast.ClassDef, ast.FunctionDef)
    return any(isinstance(node, kinds) and node.name == attribute for node in syntax.body)


def _by_import_path(target: str, key: str) -> Place:
    module, _, attribute = target.rpartition(".")
    if not module or not all(_IDENTIFIER.fullmatch(part) for part in target.split(".")):
        raise nothing(f"{key}={target} does not say where to look.", FORM)
    file = _file_of(module)
    if file is None:
        here = Path.cwd() / module.replace(".", "/")
        candidates = (here.with_name(f"{here.name}.py"), here / f"{INIT}.py")
        file = next((one for one in candidates if one.is_file()), None)
    if file is None:
        what = f"{key}={target}: there is no module {module}, installed or in {Path.cwd()}."
        raise nothing(what, FORM)
    if not _is_installed(file):
        return _in_file(file, attribute, key)
    depth = module.count(".") + (2 if file.stem == INIT else 1)
    return Place(module, attribute, file, file.parents[depth - 1], installed=True)


def _file_of(module: str) -> Path | None:
    """Return the source file of a module that can be imported; nothing is imported to find it."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    full = first
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        full = f"{full}.{part}"
        spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(os.path.abspath(spec.origin))


def _is_installed(file: Path) -> bool:
    """Say whether a file lies where packages are installed, or is of Python itself."""
    paths = sysconfig.get_paths()
    folders = {paths[kind] for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    below = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return any(file.is_relative_to(folder) for folder in (*folders, *below))
