"""A run as Flower describes it to its nodes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flwr.cli.config_utils import get_fab_metadata
from flwr.common.serde import run_from_proto, run_to_proto

from server.orchestrator.open_run import describe, name_and_version
from tests.faults.stock import app_folder, bundle


def test_the_name_of_an_app_is_the_one_that_flower_reads(tmp_path: Path) -> None:
    app = bundle(app_folder(tmp_path, "client = None"))
    assert name_and_version(app) == get_fab_metadata(app) == ("meadow/toyapp", "1.0.0")
    assert name_and_version(None) == ("meadow/meadow-federated", "0")


def test_a_run_says_which_code_it_is_of_and_travels_whole() -> None:
    run = describe(b"a bundle", "meadow/toyapp", "1.0.0")
    assert run.fab_hash == hashlib.sha256(b"a bundle").hexdigest()
    assert (run.fab_id, run.status.status) == ("meadow/toyapp", "running")
    assert run_from_proto(run_to_proto(run)) == run


def test_no_two_runs_have_the_same_id() -> None:
    ids = {describe(b"", "a", "0").run_id for _ in range(100)}
    assert len(ids) == 100 and all(0 < id < 2**63 for id in ids)
