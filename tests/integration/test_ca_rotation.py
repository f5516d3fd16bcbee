"""`meadow keys rotate-ca` in a federation that trains, with processes: no round and no bit is lost."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from azureml_jobs.identity.authority import CA_BEFORE, CA_CERTIFICATE, NO_CA
from azureml_jobs.identity.secret_store import FolderSecrets
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.run.history import read_history
from tests.integration.test_local_federation import (
    SMALL,
    checkpoints,
    done,
    folder,
    same_bits,
    simulated,
    until,
)

__all__ = ["folder"]
ROUNDS = "run.rounds=16"


@pytest.mark.slow
def test_two_cas_overlap_in_a_running_federation_and_the_older_one_ends(
    folder: Path, tmp_path: Path
) -> None:
    status, text = done(
        folder, "launch", "all", "backend=local", "--detach", *SMALL, ROUNDS, "run.name=a"
    )
    assert status == 0, text
    place = FederationFolder(folder / ".meadow/federation")
    jobs = LocalJobs(place.path / "jobs")
    store = store_in(place)
    secrets = FolderSecrets(place.keys)
    older = secrets.get(CA_CERTIFICATE)
    until(lambda: checkpoints(store)[-1:] > ["runs/a/checkpoints/round-000002"])

    status, text = done(folder, "keys", "rotate-ca")
    assert status == 0, text
    assert text.count("may connect with") == 3
    assert secrets.get(CA_BEFORE) == older != secrets.get(CA_CERTIFICATE)
    # The caretaker looks every two seconds.
    until(lambda: "the CA has changed" in jobs.log("server").read_text())

    # A silo's process dies and is started again: it still has the older CA's file, and follows.
    assert (jobs.folder("silo-silo-2") / "ca.pem").read_bytes() == older
    jobs.signal("silo-silo-2", signal.SIGKILL)
    until(lambda: jobs.status("silo-silo-2").restarts == 1)
    until(lambda: "the CAs that are trusted have changed" in jobs.log("silo-silo-2").read_text())

    status, text = done(folder, "wait", "run=a", "timeout=90")
    assert status == 0, text + jobs.log("server").read_text()
    status, text = done(folder, "keys", "rotate-ca", "--finish")
    assert status == 0, text
    assert secrets.get(CA_BEFORE) == NO_CA
    until(lambda: jobs.log("server").read_text().count("the CA has changed") == 2)

    # Under the newer CA alone: every process again, and one more run.
    for name in sorted(jobs.names()):
        jobs.signal(name, signal.SIGKILL)
    assert done(folder, "launch", "server", "backend=local", *SMALL)[0] == 0
    for number in (1, 2, 3):
        words = ("launch", "client", f"silo=silo-{number}", "backend=local", *SMALL)
        assert done(folder, *words)[0] == 0
    assert done(folder, "submit", "backend=local", *SMALL, "run.rounds=2", "run.name=b")[0] == 0
    status, text = done(folder, "wait", "run=b", "timeout=90")
    assert status == 0, text + jobs.log("server").read_text()

    history = list(read_history(folder / "outputs/a"))
    assert [record.round for record in history] == list(range(1, 17))
    for record in history:
        assert record.replied == ["silo-1", "silo-2", "silo-3"], record
    assert same_bits(folder / "outputs/a", simulated(tmp_path, ROUNDS))
