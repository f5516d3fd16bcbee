"""A federation on 127.0.0.1 for tests: fresh keys, an orchestrator in this process, nodes as threads or processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from azureml_jobs.identity.authority import ServerCredentials, make_ca, server_credentials
from azureml_jobs.identity.node_key import load_node_key, make_node_key, node_secret, public_line
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority
from azureml_jobs.rendezvous import StaticRendezvous
from azureml_jobs.storage.folder_store import FolderStore
from client.node.connection import Connection
from client.node.job import load_app
from client.node.journal import UpdateJournal
from client.node.node import Node
from client.node.own_admission import SiloAdmission
from client.node.state_store import SiloStateStore
from conf.schema import Silo
from conf.silos import silo_to_json
from server.orchestrator.fleet import Limits
from server.orchestrator.kept_uploads import KeptUploads
from server.orchestrator.service import Orchestrator

ROOT = Path(__file__).parents[2]
TOY = "tests.faults.toy:app"


class Federation:
    """Keys of some silos in a folder, and what connects with them."""

    def __init__(self, folder: Path, silos: int = 2, made: datetime | None = None) -> None:
        self.folder = folder
        folder.chmod(0o700)
        self.secrets = FolderSecrets(folder / "secrets")
        if not self.secrets.list():
            make_ca(self.secrets, "test", made or datetime.now(UTC))
        self.silos = [Silo(f"silo-{i + 1}", i, silos) for i in range(silos)]
        self.public = {silo.name: self._public(silo.name) for silo in self.silos}

    def _public(self, silo: str) -> bytes:
        if node_secret("federation", silo) not in self.secrets.list():
            make_node_key(self.secrets, "federation", silo)
        return public_line(
            load_node_key(self.secrets.get(node_secret("federation", silo)), silo).public_key()
        ).encode()

    def admission(self, silo: str, line: str | None = None, days: float = 365) -> str:
        """The client certificate over a silo's key, or over the key in a line."""
        now = time.time()
        public = line or self.public[silo].decode()
        admission = Admission("federation", silo, public, now, now + days * 86400)
        return AdmissionAuthority(self.secrets, "federation").sign(admission)

    def admission_file(self, silo: str) -> Path:
        """A file with the client certificate over a silo's key."""
        path = self.folder / f"admission-{silo}.pem"
        path.write_text(self.admission(silo))
        return path

    @property
    def authority(self) -> bytes:
        return self.secrets.get("ca-certificate")

    def credentials(self, host: str = "127.0.0.1") -> ServerCredentials:
        return server_credentials(self.secrets, [host], datetime.now(UTC))

    @contextmanager
    def orchestrator(
        self,
        port: int = 0,
        limits: Limits | None = None,
        stock: str | None = None,
        stock_grpc: str | None = None,
        uploads: KeptUploads | None = None,
    ) -> Iterator[Orchestrator]:
        """An orchestrator that listens and admits all silos; Flower's own nodes too, at `stock`."""
        orchestrator = Orchestrator(
            f"127.0.0.1:{port}",
            self.credentials(),
            self.public,
            limits,
            stock,
            stock_grpc,
            uploads=uploads,
        )
        orchestrator.start()
        try:
            yield orchestrator
        finally:
            orchestrator.stop(over=False)

    def connection(self, address: str, silo: str, **options: Any) -> Connection:
        key = load_node_key(self.secrets.get(node_secret("federation", silo)), silo)
        place = StaticRendezvous("127.0.0.1:1")
        file = self.admission_file(silo)
        admission = SiloAdmission(silo, key, self.authority, place, file)
        return Connection(lambda: address, self.authority, key, admission=admission, **options)

    @contextmanager
    def thread_node(
        self, address: str, silo: Silo, state: Path | None = None, app: str = TOY
    ) -> Iterator[ThreadNode]:
        """A node in a thread of this process, ended with the block."""
        node = ThreadNode(self.connection(address, silo.name), silo, state, app)
        try:
            yield node
        finally:
            node.end()

    @contextmanager
    def process_node(
        self,
        address: str,
        silo: Silo,
        *extra: str,
        app: str = TOY,
        root: Path = ROOT,
        python: str = sys.executable,
    ) -> Iterator[ProcessNode]:
        """A node as the process that a silo's job runs, of the release in `root`, killed with the block.

        `python` is the interpreter, and with it the release of Flower.
        """
        node = ProcessNode(self, address, silo, *extra, app=app, root=root, python=python)
        try:
            yield node
        finally:
            node.kill()


class ThreadNode:
    def __init__(
        self, connection: Connection, silo: Silo, state: Path | None, app: str = TOY
    ) -> None:
        self.connection = connection
        journal = UpdateJournal(state) if state else None
        place = state / "states" if state else None
        states = SiloStateStore(lambda: FolderStore(place), silo.name) if place else None
        self.node = Node(
            self.connection,
            load_app(app),
            silo,
            journal=journal,
            states=states,
            idle_timeout=60,
        )
        self.ended_with: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=silo.name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.node.run()
        except BaseException as error:
            self.ended_with = error

    def end(self) -> None:
        self.connection.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


class ProcessNode:
    def __init__(
        self,
        federation: Federation,
        address: str,
        silo: Silo,
        *extra: str,
        app: str = TOY,
        root: Path = ROOT,
        python: str = sys.executable,
    ) -> None:
        self.log = federation.folder / f"{silo.name}-{time.monotonic_ns()}.log"
        (federation.folder / "ca.pem").write_bytes(federation.authority)
        command = [
            *(
                python,
                "-m",
                "azureml_jobs.cli.main",
                "join",
                "--silo",
                silo_to_json(silo),
                "--server",
                address,
            ),
            *(
                "--ca",
                str(federation.folder / "ca.pem"),
                "--key",
                federation.secrets.where(node_secret("federation", silo.name)),
            ),
            *("--admission", str(federation.admission_file(silo.name))),
            *("--app", app, *extra),
        ]
        with self.log.open("w") as log:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(
                command, cwd=root, stdout=log, stderr=log, env=environment
            )

    def send(self, signal: int) -> None:
        self.process.send_signal(signal)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)

    def text(self) -> str:
        return self.log.read_text()


def model(size: int = 1000, arrays: int = 3, seed: int | None = None) -> ArrayRecord:
    """Some float arrays, of zeros or drawn (zeros travel as one chunk, whatever their size), and an integer."""
    record = ArrayRecord()
    for i in range(arrays):
        drawn = (
            None
            if seed is None
            else np.random.default_rng([seed, i]).random(size, dtype=np.float32)
        )
        record[f"w{i}"] = Array(np.zeros(size, dtype=np.float32) if drawn is None else drawn)
    record["steps"] = Array(np.zeros((), dtype=np.int64))
    return record


def ask(grid: Grid, round: int, arrays: ArrayRecord, **config: Any) -> list[Message]:
    """Return a training message for every node that is there."""
    record = {"server-round": round, "meadow-run-id": "run", **config}
    return [
        Message(
            RecordDict({"arrays": arrays, "config": ConfigRecord(record)}),
            node,
            "train",
            group_id=str(round),
        )
        for node in grid.get_node_ids()
    ]


def total(replies: Mapping[str, Message] | list[Message]) -> float:
    """Return the sum of all elements of all replies."""
    messages = replies.values() if isinstance(replies, Mapping) else replies
    return float(sum(a.numpy().sum() for m in messages for a in m.content["arrays"].values()))


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
