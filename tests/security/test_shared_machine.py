"""A machine that others use as well: no door is open to them, and what a run leaves is not theirs.

The commands of `backend=azure`, each typed and looked at in the same way: `tests/azure/test_commands.py`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.secret_store import FolderSecrets
from tests.security.listening import MARK, beyond, followed, marked

ROOT = Path(__file__).parents[2]
SMALL = [
    "task=digits",
    "data.examples=60",
    "federation.size=2",
    "run.rounds=1",
    "run.name=r",
    "run.output=out",
    "tracking=local",
]
FEDERATION = """
name: hospitals
orchestrator:
  workspace: {subscription_id: 00000000-0000-0000-0000-000000000001, resource_group: fl, name: hub}
  compute: cpu
  datastore: federation
  store: https://hub.blob.core.windows.net/federation
  key_vault: kv-hub
  ca: ca.pem
silos:
  north:
    workspace: {subscription_id: 00000000-0000-0000-0000-000000000002, resource_group: fl, name: north}
    compute: gpu
    key_vault: kv-north
"""
ON_AZURE = ["backend=azure", "federation.file=hospitals.yaml"]
COMMANDS = {
    "simulate": ["simulate", *SMALL],
    "launch all": ["launch", "all", "backend=local", *SMALL],
    "evaluate": ["evaluate", "run=out/r"],
    "report": ["report", "run=out/r"],
    "runs": ["runs", "run.output=out"],
    "keys silo": ["keys", "silo", "north"],
    "launch on Azure": ["launch", "all", *ON_AZURE, "--dry-run"],
}


def listened_at(arguments: list[str], folder: Path) -> set[str]:
    """Run a command to its end, as a user whose files are everybody's; return where it listened."""
    mark = marked()
    with subprocess.Popen(
        [sys.executable, "-m", "azureml_jobs.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        umask=0,
    ) as command:
        said, _, found = followed(command, mark[MARK])
    assert command.returncode == 0, said.decode()
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, set[str]], Path]]:
    """Where each command listened, and the folder that they ran in."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "hospitals.yaml").write_text(FEDERATION)
    secrets = FolderSecrets(folder / "elsewhere")
    make_ca(secrets, "hospitals", datetime.now(UTC))
    (folder / "ca.pem").write_bytes(secrets.get(CA_CERTIFICATE))
    found = {}
    for name, arguments in COMMANDS.items():
        if name == "launch all":
            arguments = [*arguments, "run.output=launched"]
        found[name] = listened_at(arguments, folder)
    yield found, folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_listens_on_this_machine_alone(
    command: str, seen: tuple[dict[str, set[str]], Path]
) -> None:
    addresses = seen[0][command]
    assert beyond(addresses) == []
    # The test looks at what there is: an orchestrator does listen.
    assert bool(addresses) == (command == "launch all")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rehearsal_and_the_jobs_that_it_launches_listen_on_this_machine_alone(
    tmp_path: Path,
) -> None:
    """With the clients, and the code that launches, submits and stops, of `backend=azure`."""
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    addresses = listened_at(["rehearse", "task=digits", "run.rounds=1"], tmp_path)
    assert beyond(addresses) == []
    assert "127.0.0.1" in addresses, "the stand-in listens"


@pytest.mark.parametrize("output", ["out", "launched"])
def test_what_a_run_leaves_is_its_users_alone_whatever_the_umask(
    output: str, seen: tuple[dict[str, set[str]], Path]
) -> None:
    run = seen[1] / output / "r"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"model.safetensors", "result.json", "report.html"} <= {path.name for path in files}
    everybodys = [str(path) for path in files if path.stat().st_mode & 0o077]
    assert everybodys == []
