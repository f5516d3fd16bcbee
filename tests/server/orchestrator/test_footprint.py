"""What a running orchestrator loads: nothing of Flower's own server, and none of what that stands on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.node_key import make_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from conf.compose import compose
from conf.federation_folder import FederationFolder
from conf.schema import Silo
from conf.silos import silo_to_json
from server.orchestrator.backends import store_in
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue

ROOT = Path(__file__).parents[3]
DUMP = """
import atexit, json, sys
from server.orchestrator.backends import store_in
from pathlib import Path

file = Path(sys.argv.pop())
atexit.register(lambda: file.write_text(json.dumps(sorted(sys.modules))))
"""
SERVE = f"{DUMP}\nfrom azureml_jobs.cli.main import main\nsys.exit(main(sys.argv[1:]))"
SERVERAPP = f"{DUMP}\nimport flwr.serverapp"
FORBIDDEN = ("sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "mlflow", "flwr.superlink")
RUN = ("task=digits", "data.examples=60", "federation.size=1", "run.rounds=1", "tracking=off")


class OneSilo:
    """A federation's folder with its keys and one run in its queue."""

    def __init__(self, path: Path) -> None:
        path.chmod(0o700)
        self.folder = FederationFolder(path / "federation")
        self.outputs = path / "outputs"
        secrets = FolderSecrets(self.folder.keys)
        make_ca(secrets, "test", datetime.now(UTC))
        store = store_in(self.folder)
        keys = AdmittedKeys(store, time.time, AdmissionAuthority(secrets, "federation"))
        keys.admit("silo-1", make_node_key(secrets, "federation", "silo-1"))
        self.ca = path / "ca.pem"
        self.ca.write_bytes(secrets.get(CA_CERTIFICATE))
        self.key = secrets.where(node_secret("federation", "silo-1"))
        self.queue = RunQueue(store)
        self.overrides = [f"federation.folder={self.folder.path}", f"run.output={self.outputs}"]
        self.queue.submit("a", compose([*RUN, *self.overrides]))

    def server(self) -> list[str]:
        once = "federation.orchestrator.idle_timeout=0"
        return ["-c", SERVE, "serve", *RUN, *self.overrides, once]

    def node(self) -> list[str]:
        silo = silo_to_json(Silo("silo-1", 0, 1))
        where = ["--rendezvous", str(self.folder.rendezvous)]
        identity = ["--ca", str(self.ca), "--key", self.key]
        return ["-m", "azureml_jobs.cli.main", "join", "--silo", silo, *where, *identity]


def loaded(arguments: list[str], file: Path) -> set[str]:
    """Run Python to its end and return the modules that it had loaded then."""
    done = subprocess.run(
        [sys.executable, *arguments, str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(json.loads(file.read_text()))


def superlinks(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("flwr.server.superlink")}


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of an orchestrator that has done a run with one silo."""
    here = OneSilo(tmp_path_factory.mktemp("footprint"))
    node = subprocess.Popen(
        [sys.executable, *here.node()], cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL
    )
    try:
        modules = loaded(here.server(), here.outputs.parent / "modules.json")
    finally:
        node.kill()
        node.wait(10)
    outcome = here.queue.outcome("a")
    assert outcome is not None and outcome.status == "finished", outcome
    return modules


def test_it_loads_no_database_and_no_web_server(orchestrator: set[str]) -> None:
    found = [name for name in orchestrator if name.startswith(FORBIDDEN)]
    assert sorted(found) == []


def test_it_loads_nothing_of_flowers_server_beyond_what_flowers_serverapp_does(
    orchestrator: set[str], tmp_path: Path
) -> None:
    serverapp = loaded(["-c", SERVERAPP], tmp_path / "modules.json")
    assert superlinks(orchestrator) - superlinks(serverapp) == set()
    assert "flwr.serverapp" in orchestrator & serverapp
