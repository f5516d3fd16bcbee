"""`meadow verify` after a real federation: an orchestrator that was killed and started again, a silo that left."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from client.node.witness import LEDGER_RECORD
from conf.errors import CheckpointError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.store.run_queue import RunQueue
from tests.integration.test_local_federation import (  # noqa: F401  # folder is a fixture
    SMALL,
    checkpoints,
    done,
    folder,
    until,
)

VERIFIED = "agree with each other and with the model, configuration, history and metrics"


def record_of(folder: Path, silo: str) -> Path:  # noqa: F811  # not the fixture
    return folder / f".meadow/federation/jobs/silo-{silo}/state" / LEDGER_RECORD


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen commands, each with its own start
def test_killed_and_left_by_a_silo_a_run_is_verified_and_says_what_that_silo_holds(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    asked = ["run.rounds=60", "run.name=a"]
    status, text = done(folder, "launch", "all", "backend=local", "--detach", *SMALL, *asked)
    assert status == 0, text
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(lambda: checkpoints(store)[-1:] > ["runs/a/checkpoints/round-000003"])
    jobs.signal("server", signal.SIGKILL)
    closed = checkpoints(store)[-1:]
    # Its supervisor starts it again, and silo-2 takes part in a round of that one too.
    until(lambda: jobs.status("server").restarts == 1)
    until(lambda: checkpoints(store)[-1:] > closed)
    jobs.stop(["silo-silo-2"], seconds=0)
    assert RunQueue(store).outcome("a") is None, "the run was over before silo-2 left"
    until(lambda: RunQueue(store).outcome("a"), 300)
    status, text = done(folder, "wait", "run=a", "timeout=110")
    assert status == 0, text + jobs.log("server").read_text()

    status, text = done(folder, "verify", "a")
    assert status == 0 and VERIFIED in text, text
    assert "confirmed by silo-1, silo-2, silo-3, the orchestrator's key" in text
    assert "silo-2 was away at the end: it holds the ledger as of round" in text
    ledger = (folder / "outputs/a/ledger.jsonl").read_text().splitlines()
    begun = [json.loads(line) for line in ledger if '"event":"run ' in line]
    assert [line["event"] for line in begun[:2]] == ["run started", "run resumed"]
    signers = {line["signer"]["certificate"] for line in begun if line.get("signer")}
    assert len(signers) == 2, "each start has a key of its own"

    # An auditor with a copy, elsewhere: the CA, then one silo's record, then nothing.
    folder.joinpath("elsewhere").mkdir()
    auditor = folder / "elsewhere"
    authority = folder / ".meadow/federation/keys/ca-certificate"
    status, text = done(auditor, "verify", "../outputs/a", f"ca={authority}")
    assert status == 0 and "confirmed by silo-1, silo-2, silo-3, the orchestrator's key" in text
    status, text = done(auditor, "verify", "../outputs/a", f"records={record_of(folder, 'silo-2')}")
    assert status == 0 and "confirmed by silo-2; the last" in text, text
    status, text = done(auditor, "verify", "../outputs/a")
    assert status == 0 and "confirmed by nothing but the folder itself" in text

    # What is not needed any more is deleted, and the run is verified as before.
    assert done(folder, "stop")[0] == 0
    status, text = done(folder, "forget", "run=a")
    assert status == 0 and "orchestrator: checkpoints deleted" in text, text
    assert "silo-1: updates: 1 file" in text
    assert checkpoints(store) == []
    status, text = done(folder, "verify", "a")
    assert status == 0 and "confirmed by silo-1, silo-2, silo-3, the orchestrator's key" in text

    # Each silo by itself, with the model that it was handed.
    model = folder / "outputs/a/model/model.safetensors"
    for silo, told in (("silo-1", 0), ("silo-2", CheckpointError.exit_status)):
        record = record_of(folder, silo)
        status, text = done(
            auditor, "verify", f"records={record}", f"ca={authority}", f"weights={model}"
        )
        assert status == told, text
    assert "nobody told this silo which model is the run's" in text
