"""Stock Flower's own commands: flower-superlink, flower-supernode and `flwr run`, with TLS and node keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from flwr.cli.build import build_fab_from_files

from azureml_jobs.identity.node_key import node_secret
from conf.schema import Silo
from conf.silos import silo_to_json
from conf.telemetry import OFF
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from tests.faults.federation import ROOT, Federation, ask, free_port, model, total

LAST_WITH_GRPC_NODES = (1, 39)
"""Later releases' own nodes speak HTTP only."""

PROJECT = """
[project]
name = "toyapp"
version = "1.0.0"
description = "an app for tests"
license = "Apache-2.0"
dependencies = ["flwr"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "meadow"

[tool.flwr.app.components]
serverapp = "toyapp:server"
clientapp = "toyapp:client"

[tool.flwr.app.config]
{config}
"""


TOY = """
from flwr.serverapp import ServerApp
from tests.faults.toy import app as client

server = ServerApp()
"""
"""An app whose silos are those of `tests.faults.toy`."""


def node_config(silo: Silo) -> str:
    """Return a silo's settings as a stock node is given them."""
    # TOML's literal string: Flower's reader takes no escaped quotes.
    return f"silo='{silo_to_json(silo)}'"


def app_folder(folder: Path, module: str, config: dict[str, Any] | None = None) -> Path:
    """Write a Flower app whose one module is given, and return its folder."""
    app = folder / "toyapp"
    app.mkdir()
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (config or {}).items())
    (app / "pyproject.toml").write_text(PROJECT.format(config=values))
    (app / "toyapp.py").write_text(module)
    return app


def bundle(app: Path) -> bytes:
    """Return what `flwr build` makes of an app's folder."""
    return build_fab_from_files({file.name: file for file in app.iterdir() if file.is_file()})[0]


class Stock:
    """Flower's processes with a home, keys and ports of their own; all are ended with `close`.

    They are of the release that a Python has installed: this one's, if no other is named.
    """

    def __init__(self, federation: Federation, python: str = sys.executable) -> None:
        self.federation = federation
        self.folder = federation.folder
        self.bin = Path(python).parent
        self.home = self.folder / "flwr"
        self.environment = os.environ | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            **OFF,
            "FLWR_HOME": str(self.home),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # From 1.40 on a server opens the gRPC port, which our nodes need, only when it is told to.
            "FLWR_INTERNAL_GRPC_FLEET_API": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }
        self.authority = self.folder / "stock-ca.pem"
        self.authority.write_bytes(federation.authority)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.fleet = f"127.0.0.1:{free_port()}"
        self.api = free_port()
        grpc = nodes_speak_grpc(python)
        self.nodes_server = self.fleet if grpc else f"127.0.0.1:{self.api}"

    def superlink(self) -> None:
        """Start the server, wait until it answers, and register the silos' keys."""
        made = self.federation.credentials()
        files = {"certificate.pem": made.certificate, "key.pem": made.key}
        for name, content in files.items():
            (self.folder / name).touch(mode=0o600)
            (self.folder / name).write_bytes(content)
        self.start(
            *(
                "flower-superlink",
                "--enable-supernode-auth",
                "--ssl-ca-certfile",
                str(self.authority),
            ),
            *(
                "--ssl-certfile",
                str(self.folder / "certificate.pem"),
                "--ssl-keyfile",
                str(self.folder / "key.pem"),
            ),
            *("--fleet-api-address", self.fleet, "--host", "127.0.0.1", "--port", str(self.api)),
        )
        self.home.mkdir(exist_ok=True)
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.api}"\n'
            f'root-certificates = "{self.authority}"\n'
        )
        for silo, line in self.federation.public.items():
            key = self.folder / f"{silo}.pub"
            key.write_bytes(line)
            self.flwr("supernode", "register", str(key), "here", tries=60)

    def supernode(self, silo: str, server: str, config: str = "") -> None:
        """Start a stock node with a silo's key."""
        self.start(
            *(
                "flower-supernode",
                "--superlink",
                server,
                "--root-certificates",
                str(self.authority),
            ),
            *(
                "--auth-supernode-private-key",
                self.federation.secrets.where(node_secret("federation", silo)),
            ),
            *("--host", "127.0.0.1", "--port", str(free_port())),
            *(("--node-config", config) if config else ()),
        )

    def start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}-{len(self.processes)}.log").open("wb")
        with log:
            one = subprocess.Popen(
                [str(self.bin / command[0]), *command[1:]],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(one)

    def flwr(self, *arguments: str, tries: int = 1) -> str:
        """Run Flower's command line; repeated while the server is starting."""
        for left in reversed(range(tries)):
            done = subprocess.run(
                [str(self.bin / "flwr"), *arguments],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                return done.stdout
            if not left:
                raise AssertionError(f"{arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
            time.sleep(1.0)
        return ""

    def logs(self) -> str:
        return "\n".join(
            file.read_text()[-3000:] for file in sorted(self.folder.glob("flower-*.log"))
        )

    def memory(self) -> dict[str, int]:
        """Return the peak memory of Flower's processes that are alive, the largest of each kind."""
        found: dict[str, int] = {}
        for process in self._all():
            with suppress(psutil.Error, OSError, StopIteration):
                kind = next(
                    Path(part).name
                    for part in process.cmdline()
                    if Path(part).name.startswith(("flower-", "flwr-"))
                )
                text = Path(f"/proc/{process.pid}/status").read_text()
                peak = next(
                    int(line.split()[1]) * 1024
                    for line in text.splitlines()
                    if line.startswith("VmHWM")
                )
                found[kind] = max(found.get(kind, 0), peak)
        return found

    def close(self) -> None:
        """End every process of this home, children first heard by their parents."""
        left = self._all()
        for one in self.processes:
            with suppress(ProcessLookupError):
                one.terminate()
        _, stubborn = psutil.wait_procs(left, timeout=15)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for one in self.processes:
            one.wait(15)

    def _all(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FLWR_HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def two_rounds_of_the_toy(orchestrator: Orchestrator, flower: Stock) -> None:
    """Train with silo-1, whose node is Flower's own, beside silo-2, whose node is Meadow's."""
    app = app_folder(flower.folder, TOY)
    names = ["silo-1", "silo-2"]
    grid = PackedGrid(orchestrator.open_run("run", names, bundle=bundle(app)))
    packs = {name: grid._grid.packs(node) for node, name in grid.names().items()}
    assert packs == {"silo-1": False, "silo-2": True}
    for round in (1, 2):
        replies = list(grid.send_and_receive(ask(grid, round, model()), timeout=180))
        assert [m.error.reason for m in replies if m.has_error()] == [], flower.logs()
        # Flower's node starts two processes for its first answer, which takes long on a busy machine:
        # who has not answered is named, where the sum of the others would only be another number.
        answered = sorted(grid.names()[m.metadata.src_node_id] for m in replies)
        assert answered == names, f"round {round}: only {answered} answered\n{flower.logs()}"
        assert total(replies) == 3 * 1000 * (1 + 2) + 3


def flower_of(python: str) -> tuple[int, int]:
    """Return the major and minor version of the Flower that a Python has installed."""
    said = "import importlib.metadata; print(importlib.metadata.version('flwr'))"
    done = subprocess.run([python, "-c", said], capture_output=True, text=True, check=True)
    major, minor = done.stdout.split(".")[:2]
    return int(major), int(minor)


def nodes_speak_grpc(python: str = sys.executable) -> bool:
    """Say whether that Flower's own nodes speak gRPC."""
    return flower_of(python) <= LAST_WITH_GRPC_NODES


@contextmanager
def stock(federation: Federation, python: str = sys.executable) -> Iterator[Stock]:
    """Stock Flower for the length of a block."""
    one = Stock(federation, python)
    try:
        yield one
    finally:
        one.close()
