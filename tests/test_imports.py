"""Imports point one way, and Flower's internals are touched only where the plumbing is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {
    "azureml_jobs.identity",
    "azureml_jobs.relay",
    "azureml_jobs.rendezvous",
    "azureml_jobs.storage",
}
"""Who may speak to whom, how they find and reach each other, what outlives a job: what orchestrator
and silo share.
"""
MAY_ENTER = {
    "conf": {"conf"},
    "strategies": {"strategies", "conf"},
    "client": {"client", "strategies", "conf", *SHARED},
    "server": {"server", "client", "strategies", "conf", *SHARED},
    "azureml_jobs": {"azureml_jobs", "conf"},
    "meadow": {"meadow"},
}
ROOMS = set(MAY_ENTER)
TOP = {"azureml_jobs.cli", "meadow"}
"""The command line, and what people import: they may enter any room, lazily."""
CONF_STANDS_ON = {"omegaconf", "hydra", "yaml", "packaging"}  # yaml is OmegaConf's own reader

FLOWER = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
PLUMBING = {  # the folders that may touch anything of Flower, and why
    "server/orchestrator": "the long-lived server plays the part of Flower's SuperLink",
    "server/engines": "call the ClientApp themselves, or drive Flower's own simulation",
    "client/node": "the silo's process plays the part of Flower's SuperNode",
    "strategies/wire": "objects of Flower's wire, with every size checked",
}
SIGNATURES = {  # types in the signatures of Flower's public classes, which it does not export beside them
    "flwr.clientapp.typing.ClientAppCallable",  # a mod's `call_next`
    "flwr.common.constant.ErrorCode",  # of `Error`
    "flwr.proto.node_pb2.NodeInfo",  # of `Grid`
    "flwr.supercore.run.Run",  # of `Grid`
    "flwr.serverapp.strategy.fedopt.FedOpt",  # the base of FedAdam and its kin, to tell which state they have
}


@dataclass(frozen=True)
class Import:
    """One imported module, and whether it is imported only when a function runs, or for types alone."""

    module: str
    line: int
    lazy: bool


def module_files() -> list[Path]:
    """Return every Python file of the five packages, and the one beside them."""
    inside = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted([*inside, ROOT / "meadow.py"])


def dotted(path: Path) -> str:
    """Return the module name of a file below the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Yield every import of a module: relative, inside functions, under TYPE_CHECKING and by import_module."""
    tree = ast.parse(source)
    functions = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    ]
    never_run = [n for n in ast.walk(tree) if isinstance(n, ast.If) and is_for_types_alone(n.test)]
    lazy = {id(inner) for part in [*functions, *never_run] for inner in ast.walk(part)}
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for name in names_in(node, package):
            yield Import(name, getattr(node, "lineno", 0), id(node) in lazy)


def is_for_types_alone(test: ast.expr) -> bool:
    """Whether a condition is `TYPE_CHECKING`: what stands below it is read by the type checker and never imported."""
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def names_in(node: ast.AST, package: str) -> list[str]:
    """Return the modules that one syntax node imports; `from a import b` counts as a and as a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            base = ".".join([*above, base]).rstrip(".")
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func)
        if called in ("importlib.import_module", "import_module", "__import__"):
            return [str(node.args[0].value)]
    return []


def within(name: str, allowed: set[str]) -> bool:
    """Whether a dotted name is one of the allowed modules or lies below one."""
    return any(name == one or name.startswith(one + ".") for one in allowed)


def wrong_rooms(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return the imports of a module that enter a room it may not enter."""
    found = []
    shared = within(module, SHARED)
    allowed = {"conf", *SHARED} if shared else MAY_ENTER[module.split(".")[0]]
    for one in imports_of(source, module, is_package):
        first = one.module.split(".")[0]
        if first in ("tests", "benchmarks"):
            found.append(f"{module}:{one.line} imports {one.module}")
        if first not in ROOMS or within(one.module, allowed) or (within(module, TOP) and one.lazy):
            continue
        found.append(f"{module}:{one.line} imports {one.module}")
    return found


@pytest.mark.parametrize("path", module_files(), ids=dotted)
def test_a_module_enters_only_the_rooms_it_may(path: Path) -> None:
    assert wrong_rooms(path.read_text(), dotted(path), path.name == "__init__.py") == []


def test_conf_stands_on_the_standard_library_and_hydra_alone() -> None:
    allowed = {"conf", *CONF_STANDS_ON, *sys.stdlib_module_names}
    found = [
        f"{path.name}:{one.line} imports {one.module}"
        for path in sorted((ROOT / "conf").rglob("*.py"))
        for one in imports_of(path.read_text(), dotted(path), path.name == "__init__.py")
        if one.module.split(".")[0] not in allowed
    ]
    assert found == []


def internals(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return the imports of a module that reach behind Flower's public names."""
    return [
        f"{module}:{one.line} imports {one.module}"
        for one in imports_of(source, module, is_package)
        if one.module.split(".")[0] == "flwr"
        and one.module not in FLOWER | SIGNATURES
        and not (
            one.module.rpartition(".")[0] in FLOWER and one.module.rpartition(".")[2] != "typing"
        )
    ]


def is_plumbing(path: Path) -> bool:
    """Whether a file is one of those that may touch Flower's internals."""
    return any(path.is_relative_to(ROOT / folder) for folder in PLUMBING)


@pytest.mark.parametrize("folder", PLUMBING)
def test_each_exemption_is_still_needed(folder: str) -> None:
    exempt = [path for path in module_files() if path.is_relative_to(ROOT / folder)]
    assert any(
        internals(path.read_text(), dotted(path), path.name == "__init__.py") for path in exempt
    )


@pytest.mark.parametrize(
    "path", [path for path in module_files() if not is_plumbing(path)], ids=dotted
)
def test_flowers_internals_are_touched_only_in_the_plumbing(path: Path) -> None:
    assert internals(path.read_text(), dotted(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "source",
    [
        "from flwr.supercore.task_identity import TaskIdentity",
        "import flwr.server.superlink",
        "from flwr.clientapp import typing",
        "def f():\n    from flwr.common import serde",
    ],
)
def test_an_internal_of_flower_is_found(source: str) -> None:
    assert len(internals(source, "client.app")) == 1


def test_flowers_public_names_pass() -> None:
    source = "from flwr.app import Message\nfrom flwr.serverapp.strategy import FedAvg\nimport flwr.simulation"
    assert internals(source, "client.app") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("conf.schema", "import server"),
        ("strategies.average", "from client import loop"),
        ("client.app", "def f():\n    from server.round.rounds import Rounds"),
        (
            "client.app",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import server.round.rounds",
        ),
        (
            "client.app",
            "import importlib\nimportlib.import_module('azureml_jobs.jobs.specification')",
        ),
        ("server.app", "from azureml_jobs import launch"),
        ("azureml_jobs.backends.base", "from server.store.run_queue import RunQueue"),
        (
            "azureml_jobs.backends.base",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from server.store.run_queue import RunQueue",
        ),
        (
            "azureml_jobs.identity.authority",
            "from azureml_jobs.backends.workspace import workspace",
        ),
        ("azureml_jobs.identity.authority", "from ..backends import workspace"),
        ("azureml_jobs.cli.main", "from server.simulation import simulate"),
        ("server.app", "from tests.conftest import SESSION"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(wrong_rooms(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "server.app",
            "from azureml_jobs.rendezvous import find\nfrom azureml_jobs.identity import authority",
        ),
        (
            "azureml_jobs.identity.authority",
            "from azureml_jobs.identity.secret_store import SecretStore",
        ),
        (
            "azureml_jobs.cli.main",
            "def simulate():\n    from server.simulation import simulate_conf",
        ),
        (
            "azureml_jobs.cli.runs",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from server.store.run_queue import RunQueue",
        ),
        ("client.app", "from . import loop\nfrom conf.errors import DataError"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert wrong_rooms(source, module) == []
