"""Only `conf.files` makes, renames, locks, syncs and gives modes: elsewhere a file system that lacks
one of these, or fails at it, would be met without its work-arounds and its family of errors.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "strategies", "client", "server", "azureml_jobs")
LAYER = ROOT / "conf/files"
CALLS = {
    *("os.link", "os.rename", "os.replace", "os.renames", "os.chmod", "os.fchmod", "os.lchmod"),
    *("os.fsync", "os.fdatasync", "os.sync", "os.symlink", "os.mkfifo", "os.posix_fallocate"),
    *("shutil.move", "tempfile.mktemp", "Path.home", "os.path.expanduser"),
}
METHODS = {
    *("hardlink_to", "link_to", "symlink_to", "chmod", "lchmod", "rename", "write_bytes"),
    "write_text",
    *("touch", "expanduser"),
}
"""Of a path. `Path.replace` has one argument, and those of texts, stores and dates have others."""
MAKING = {"O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND"}
ALLOWED = {
    "server/engines/quiet.py": "a log's opener, which Python's logging calls with its own flags",
    "azureml_jobs/rehearsal": "plays Azure in a temporary folder of this machine",
    "azureml_jobs/jobs/snapshot.py": "a copy of the tree in a temporary folder",
    "server/orchestrator/kept_uploads.py": "what it can't keep is sent again: each failure is handled",
    "client/node/memory_limit.py": "control groups are no files",
}


def breaches(source: str) -> list[str]:
    """Return what a module asks of a file system past the layer, with line numbers."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import fcntl" for one in node.names if one.name == "fcntl"]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{one.name}" for one in node.names]
            found += [f"{node.lineno}: {name}" for name in names if name in CALLS]
            found += [f"{node.lineno}: import fcntl" for _ in names if node.module == "fcntl"]
        elif isinstance(node, ast.Attribute) and node.attr in MAKING:
            found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            one_argument = len(node.args) == 1 and not node.keywords
            if (
                call in CALLS
                or node.func.attr in METHODS
                or (
                    node.func.attr == "replace"
                    and one_argument
                    and not call.startswith("dataclass")
                )
            ):
                found.append(f"{node.lineno}: {call}")
    return found


def modules() -> list[Path]:
    """Return every module outside the layer that is not allowed for a reason."""
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if LAYER not in path.parents
        and not any(str(path.relative_to(ROOT)).startswith(one) for one in ALLOWED)
    ]


def test_no_module_goes_past_the_layer() -> None:
    found = {
        str(path.relative_to(ROOT)): there
        for path in modules()
        if (there := breaches(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize("allowed", ALLOWED)
def test_what_is_allowed_is_there_and_needs_it(allowed: str) -> None:
    path = ROOT / allowed
    files = [path] if path.is_file() else list(path.rglob("*.py"))
    assert any(breaches(file.read_text(encoding="utf-8")) for file in files), "not any more"


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from fcntl import flock",
        "from os import replace",
        "import os\nos.open('a', os.O_CREAT)",
        "import os\nos.link('a', 'b')",
        "path.rename(other)",
        "path.replace(other)",
        "path.chmod(0o600)",
        "path.write_bytes(b'')",
    ],
)
def test_a_breach_is_seen(source: str) -> None:
    assert breaches(source)


@pytest.mark.parametrize(
    "source",
    [
        "text.replace('a', 'b')",
        "store.replace(name, data)",
        "dataclasses.replace(conf, a=1)",
        "import os\nos.open('a', os.O_RDONLY)",
        "moment.replace(tzinfo=UTC)",
    ],
)
def test_what_only_looks_like_one_is_not(source: str) -> None:
    assert not breaches(source)
