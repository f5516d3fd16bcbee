"""This tree as Flower's app bundle, for Flower's own nodes; built by a process of its own.

Flower's builder belongs to its command line and stands on much that the process that listens has no
use for.

    MDW-758 the bundle can't be built
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from conf.code_digest import FRONT
from conf.errors import IdentityError

BUILD_SECONDS: Final = 120.0
ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("azureml_jobs", "client", "conf", "server", "strategies")


def app_bundle(root: Path = ROOT) -> bytes:
    """Return the bundle of the tree at `root`.

    Raises IdentityError MDW-758, as for a tree without pyproject.toml.
    """
    command = [sys.executable, "-m", "server.orchestrator.app_bundle", str(root)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, timeout=BUILD_SECONDS, check=False
        )
        why = done.stderr.decode(errors="replace").strip()[-300:]
    except subprocess.TimeoutExpired:
        done = None
        why = f"it took more than {BUILD_SECONDS:.0f} s"
    if done is None or done.returncode or not done.stdout:
        raise IdentityError(
            "MDW-758",
            f"Flower's app bundle of {root} can't be built: {why}",
            "Serve from Meadow's source tree, or leave federation.orchestrator.stock_listen out.",
        )
    return done.stdout


def _build(root: Path) -> bytes:
    from flwr.cli.build import build_fab_from_files

    files = {name: root / name for name in ("pyproject.toml", FRONT)}
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                files[file.relative_to(root).as_posix()] = file
    return build_fab_from_files(files)[0]


if __name__ == "__main__":
    sys.stdout.buffer.write(_build(Path(sys.argv[1])))
