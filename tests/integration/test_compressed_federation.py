"""Compressed updates over real connections: the simulation's bits, also where a silo is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.run.history import read_history
from server.store.run_queue import RunQueue
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
"""The fixture, for the tests below."""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int4 compression.down=int8", "topk", "lowrank"])
def test_a_silo_that_is_killed_goes_on_with_what_it_left_out(
    folder: Path,
    tmp_path: Path,
    form: str,
) -> None:
    # All of them, so that a round waits for the one that is killed.
    run = ["run.rounds=12", "run.quorum=3", *f"compression={form}".split()]
    status, text = done(
        folder, "launch", "all", "backend=local", "--detach", *SMALL, *run, "run.name=a"
    )
    assert status == 0, text
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(lambda: checkpoints(store)[-1:] > ["runs/a/checkpoints/round-000003"])
    jobs.signal("silo-silo-2", signal.SIGKILL)
    until(lambda: jobs.status("silo-silo-2").restarts == 1)
    assert RunQueue(store).outcome("a") is None, "the run was over before the silo was killed"

    status, text = done(folder, "wait", "run=a", "timeout=90")
    assert status == 0, text + jobs.log("server").read_text()
    history = list(read_history(folder / "outputs/a"))
    assert [len(record.replied) for record in history] == [3] * 12
    alone = simulated(tmp_path, *run)
    assert same_bits(folder / "outputs/a", alone)
    assert [r.bytes_up for r in history] == [r.bytes_up for r in alone.rounds]
    if "down" in form:
        assert history[-1].bytes_down["silo-1"] < alone.rounds[-1].bytes_down["silo-1"] / 3
