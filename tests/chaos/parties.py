"""A federation of processes that can be killed, paused, and have a clock of their own each.

The server is `meadow serve`, the silos are `meadow join` with the stand-in app; whoever is killed is
started again here, as the process beside a job would. A clock is moved by `stepped/sitecustomize.py`:
wall time alone, as a step of NTP moves it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.node_key import load_node_key, make_node_key, node_secret, public_line
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from conf.compose import compose
from conf.federation_folder import FederationFolder
from conf.files.whole import write_atomic
from conf.schema import Conf, Silo
from conf.silos import silo_to_json
from server.orchestrator.backends import store_in
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue
from tests.chaos import stand_in
from tests.chaos.disturbances import SERVER
from tests.chaos.links import Links

ROOT: Final = Path(__file__).parents[2]
STEPPED: Final = Path(__file__).parent / "stepped"
SECONDS: Final = {"train": 1.5, "evaluate": 1.0}
"""That a silo takes for a phase."""
IDLE_SECONDS: Final = 20.0
"""After which a server without work ends, and with it its silos."""


class Party:
    """One process, over all its starts."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.lock = threading.Lock()
        """Held by who disturbs it: one at a time."""
        self.starts = 0
        self.has_left = False
        self._command = list(command)
        self._clock = folder / f"{name}.clock"
        self._process: subprocess.Popen[bytes] | None = None
        self.step(0.0)

    def start(self) -> None:
        """Start it, or start it again."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(STEPPED), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
            "MEADOW_CHAOS_CLOCK": str(self._clock),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.log.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1
        self.has_left = False

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, also where it stands still, and wait for that."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait(30)

    def end(self) -> None:
        """Ask it to end, and wait for that; it counts as having left until it is started again."""
        self.has_left = True
        self.send(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(60)

    def step(self, seconds: float) -> None:
        """Let its clock be off by so many seconds."""
        write_atomic(self._clock, f"{seconds:+g}\n")


class Parties:
    """The server and the silos in a folder of their own."""

    def __init__(self, folder: Path, silos: Sequence[str], liar: str, links: Links | None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.begun = folder / "begun.jsonl"
        self.output = folder / "outputs"
        self._names = list(silos)
        self._links = links
        self._home = FederationFolder(folder / "federation")
        self._host = links.host if links is not None else "127.0.0.1"
        self._secrets = FolderSecrets(self._home.keys)
        make_ca(self._secrets, "chaos", datetime.now(UTC))
        self.store = store_in(self._home)
        self.queue = RunQueue(self.store)
        self.settings = {"seconds": SECONDS, "begun": str(self.begun), "liar": liar}
        os.environ[stand_in.SETTINGS] = json.dumps(self.settings)
        authority = AdmissionAuthority(self._secrets, "federation")
        keys = AdmittedKeys(self.store, time.time, authority)
        ca = folder / "ca.pem"
        ca.write_bytes(self._secrets.get(CA_CERTIFICATE))
        port = _free_port(self._host)
        serve = ["serve", *self._overrides(), f"federation.orchestrator.listen={self._host}:{port}"]
        serve += [f"federation.orchestrator.idle_timeout={IDLE_SECONDS:g}"]
        serve += [f"federation.orchestrator.host={self._host}"]
        self.server = Party(SERVER, _meadow(*serve), folder)
        self.silos = {
            silo: Party(silo, self._join(silo, index, keys, ca), folder)
            for index, silo in enumerate(self._names)
        }

    def conf(self, *overrides: str) -> Conf:
        """Return the configuration of a run."""
        return compose([*self._overrides(), *overrides])

    def party(self, name: str) -> Party:
        """Return the server or a silo."""
        return self.server if name == SERVER else self.silos[name]

    def everybody(self) -> list[Party]:
        """Return all of them."""
        return [self.server, *self.silos.values()]

    def submit(self, run: str, conf: Conf) -> None:
        """Ask for a run."""
        self.queue.submit(run, conf, "chaos")

    def run_folder(self, run: str) -> Path:
        """Return where a run leaves its files."""
        return self.output / run

    @property
    def ca(self) -> bytes:
        """The CA's certificate."""
        return self._secrets.get(CA_CERTIFICATE)

    def _overrides(self) -> list[str]:
        return [
            *("task=digits", "model=mlp", "model.hidden=[1500]"),
            f"federation.size={len(self._names)}",
            f"federation.folder={self._home.path}",
            f"run.output={self.output}",
        ]

    def _join(self, silo: str, index: int, keys: AdmittedKeys, ca: Path) -> list[str]:
        secret = node_secret("federation", silo)
        make_node_key(self._secrets, "federation", silo)
        line = public_line(load_node_key(self._secrets.get(secret), silo).public_key())
        admission = self.folder / f"{silo}.pem"
        admission.write_text(keys.admit(silo, line).certificate)
        settings = silo_to_json(Silo(silo, index, len(self._names)))
        command = _meadow(
            *("join", "--silo", settings, "--rendezvous", str(self._home.rendezvous)),
            *("--ca", str(ca), "--key", self._secrets.where(secret)),
            *("--admission", str(admission), "--app", f"{stand_in.__name__}:app"),
            *("--state", str(self.folder / f"state-{silo}")),
        )
        return command if self._links is None else [*self._links.there(silo), *command]


def _meadow(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "azureml_jobs.cli.main", *arguments]


def _free_port(host: str) -> int:
    import socket

    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])
