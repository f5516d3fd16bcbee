"""The digests of the program: of what must agree before a silo takes part in a run, and of the
whole tree.

What must agree is what the silo executes for a run: `client/app.py`, the wire, the run's own task,
model and strategy, and every module of this tree that one of them imports. That is the training
loop, the folding of updates, the schema and what parses it. It is counted by what the code means
(`conf.code_meaning`), so a comment or a docstring changes nothing.

Not counted are the server, the verbs, the report, and `client/node`, the silo's process around the
app, with its calls: no run computes with them, and how the two processes speak has a version of its
own (`strategies.wire.protocol.PROTOCOL`). Nor is any YAML file: the values of a run travel
resolved.

The digest is no defence. The server states its own, and one that lies could state the expected one;
a silo runs its own code in any case. It keeps two releases from computing one model by accident.

    MDW-335 source files that can't be read    MDW-336 a run's own file that is not in this tree
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from conf.code_meaning import meaning_of
from conf.errors import SiloError
from conf.schema import is_outside

APP: Final = "client/app.py"
"""The silo's ClientApp; what it imports is what every run executes."""
PACKING: Final = "strategies/wire/packing.py"
"""How what travels is packed: done by the silo's process around the app, and undone at the server.
"""
OWN_FOLDERS: Final = {"task": "client/tasks", "model": "client/models", "strategy": "strategies"}
"""Where the files are that a run names, by the group that names one."""
PACKAGES: Final = ("azureml_jobs", "client", "conf", "server", "strategies")
"""The packages of the whole tree: their Python files, and the YAML files of conf."""
FRONT: Final = "meadow.py"
"""What people import, beside the packages."""
HOSTED: Final = "strategies/fedprox.py"
"""What a silo does for a hosted strategy of Flower's that asks for a proximal term
(`strategies.flower_half`), whichever class that is.
"""
NOT_TREE: Final = ("azureml_jobs/rehearsal/", "conf/federation/", "conf/experiment/")
"""Not part of the tree that a job is sent with: a stand-in for Azure, and what differs between
users.
"""


def run_files(task: str, model: str, strategy: str) -> tuple[str, ...]:
    """Return the run's own files of this tree, as paths from the root.

    What is from outside the tree has a digest of its own (`conf.targets`); in the place of such a
    strategy stands what silos do for it.
    """
    named = {"task": task, "model": model, "strategy": strategy}
    own = [
        f"{OWN_FOLDERS[group]}/{name}.py" for group, name in named.items() if not is_outside(name)
    ]
    if is_outside(strategy):
        own.append(HOSTED)
    return tuple(own)


def run_digest(files: Iterable[str], root: Path | None = None) -> str:
    """Return the SHA-256, in hex, of what must agree for a run with these own files.

    Raises SiloError: MDW-336 where one of them is not there, MDW-335 where a file can't be read.
    """
    tree = _tree(root)
    own = sorted(set(files))
    for name in own:
        if not tree.has(name):
            raise SiloError(
                "MDW-336",
                f"The run needs {name[:120]}, which is not in this tree.",
                "Start the silo from a release that has it, or choose another task, model or"
                " strategy.",
            )
    return _digest_of(tree, own)


def release_digest(root: Path | None = None) -> str:
    """Return the SHA-256, in hex, of what must agree for any run of this tree: every own file
    counts.

    It is what `meadow version` prints and an owner lists. Raises SiloError MDW-335.
    """
    tree = _tree(root)
    own = [name for folder in OWN_FOLDERS.values() for name in tree.python_files(folder)]
    return _digest_of(tree, own)


def covered_files(files: Iterable[str] = (), root: Path | None = None) -> list[str]:
    """Return what `run_digest` counts, as sorted paths from the root; raises SiloError MDW-335."""
    return sorted(_closure(_tree(root), files))


def tree_digest(root: Path | None = None) -> str:
    """Return the SHA-256, in hex, of `tree_listing`: what is installed, to the letter, for
    information.
    """
    return hashlib.sha256(tree_listing(root)).hexdigest()


def tree_listing(root: Path | None = None) -> bytes:
    """Return a line for every file of the tree, sorted: its SHA-256 and its path; line ends are LF.

    That of the installed tree is read once per process.
    """
    return _installed_listing() if root is None else _listing(root)


@cache
def _installed_listing() -> bytes:
    return _listing(_installed_root())


def _listing(base: Path) -> bytes:
    names = [FRONT] if (base / FRONT).is_file() else []
    for package in PACKAGES:
        patterns = ("*.py", "*.yaml") if package == "conf" else ("*.py",)
        for pattern in patterns:
            found = (base / package).rglob(pattern)
            names += [file.relative_to(base).as_posix() for file in found]
    counted = sorted(name for name in names if not name.startswith(NOT_TREE))
    lines = []
    for name in counted:
        content = (base / name).read_bytes().replace(b"\r\n", b"\n")
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    return "".join(lines).encode()


@dataclass(frozen=True)
class _Source:
    """One file: the digest of what it means, and the dotted names that it imports."""

    digest: str
    imports: frozenset[str]


_known: Final[dict[tuple[str, bytes], _Source]] = {}
"""What files mean, by name and content: as many as a process ever reads."""


def _source_of(name: str, text: bytes) -> _Source:
    """Return what a file means and imports; raises SyntaxError, ValueError."""
    syntax = ast.parse(text)
    digest = hashlib.sha256(meaning_of(syntax).encode()).hexdigest()
    return _Source(digest, frozenset(_imports(syntax, name)))


class _Tree:
    """The Python files below a root, each read once: a run must not see a tree that changes under
    it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources: dict[str, _Source] = {}

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        return (self._root / name).is_file()

    def python_files(self, folder: str) -> list[str]:
        """Return the modules directly inside a folder, as paths from the root."""
        return sorted(f"{folder}/{file.name}" for file in (self._root / folder).glob("*.py"))

    def source(self, name: str) -> _Source:
        """Return what a file means and imports; raises SiloError MDW-335."""
        if name not in self._sources:
            self._sources[name] = self._read(name)
        return self._sources[name]

    def _read(self, name: str) -> _Source:
        try:
            text = (self._root / name).read_bytes().replace(b"\r\n", b"\n")
            # A launch copies the tree for each job, and each copy says the same.
            key = (name, hashlib.sha256(text).digest())
            if key not in _known:
                _known[key] = _source_of(name, text)
            return _known[key]
        except (OSError, SyntaxError, ValueError) as error:
            raise SiloError(
                "MDW-335",
                f"{self._root / name} can't be read as Python: {error}.",
                "Install Meadow from its source files, in a folder: neither compiled files alone nor"
                " an archive will do.",
            ) from None

    def files_of(self, module: str) -> Iterator[str]:
        """Yield the files that importing a dotted name executes: its packages from the top, then
        its own.
        """
        parts = module.split(".")
        if parts[0] not in PACKAGES:
            return
        for length in range(1, len(parts) + 1):
            stem = "/".join(parts[:length])
            for name in (f"{stem}/__init__.py", f"{stem}.py"):
                if self.has(name):
                    yield name


def _digest_of(tree: _Tree, own: Iterable[str]) -> str:
    covered = sorted(_closure(tree, own))
    lines = [f"{tree.source(name).digest}  {name}\n" for name in covered]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _closure(tree: _Tree, own: Iterable[str]) -> set[str]:
    """Return the app, the packing, a run's own files, and all that one of them imports, at once or
    later.
    """
    found: set[str] = set()
    # The app is read even where it is missing, for an error that names it.
    todo = [APP]
    for name in (APP, PACKING, *own):
        todo.extend(tree.files_of(_dotted(name)))
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for module in tree.source(name).imports:
            todo.extend(tree.files_of(module))
    return found


def _imports(syntax: ast.AST, name: str) -> Iterator[str]:
    """Yield the dotted names that a file imports, inside functions as well; `from a import b` is a
    and a.b.

    A module that is imported by a name that is put together when it runs is not seen: the run's own
    files are the only such ones at a silo (`client.registry`, `strategies.build_strategy`).
    """
    for node in ast.walk(syntax):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, name: str) -> str:
    if not node.level:
        return node.module or ""
    above = name.split("/")[: -node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


def _dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _installed_root() -> Path:
    return Path(__file__).resolve().parent.parent


def _tree(root: Path | None) -> _Tree:
    return _installed() if root is None else _Tree(root)


@cache
def _installed() -> _Tree:
    return _Tree(_installed_root())
