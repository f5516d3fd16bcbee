"""A note of a silo's owner in a federation that trains: the next round counts by it, and it is in the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf.federation_folder import FederationFolder
from server.run.history import read_history
from tests.integration.test_local_federation import SMALL, done, folder

__all__ = ["folder"]


@pytest.mark.slow
def test_a_lower_ceiling_is_held_by_the_next_run_without_a_restart(folder: Path) -> None:
    status, text = done(
        folder, "launch", "all", "backend=local", "--detach", *SMALL, "run.rounds=1", "run.name=a"
    )
    assert status == 0, text
    assert done(folder, "wait", "run=a", "timeout=90")[0] == 0
    place = FederationFolder(folder / ".meadow/federation")
    keys = place.path / "jobs/silo-silo-1/keys"
    status, text = done(folder, "keys", "note", "silo-1", "examples_at_most=1", f"keys={keys}")
    assert status == 0, text
    status, text = done(folder, "keys", "accept", "silo-1", str(keys / "note-silo-1.json"))
    assert status == 0 and "counts 1 examples at most" in text
    assert done(folder, "submit", "backend=local", *SMALL, "run.rounds=1", "run.name=b")[0] == 0
    status, text = done(folder, "wait", "run=b", "timeout=90")
    assert status == 0, text
    (record,) = read_history(folder / "outputs/b")
    assert record.codes == {"silo-1": "MDW-616"} and record.replied == ["silo-2", "silo-3"]
    lines = (folder / "outputs/b/ledger.jsonl").read_text().splitlines()
    (noted,) = [json.loads(line) for line in lines if '"event":"owner note"' in line]
    assert noted["silo"] == "silo-1" and noted["note"]["examples_at_most"] == 1
    status, text = done(folder, "verify", "run=b", f"ca={place.keys / 'ca-certificate'}")
    assert status == 0, text
