"""What an audit found stands beside what the accountant says, and which of them is the larger shows."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import canaries
from conf.schema import PrivacyConf, SampleDpConf
from server.run.privacy_audit import audited
from server.run.privacy_spent import of_audit, sentences
from server.run.result import RunResult

ASKED = SampleDpConf(name="sample_dp", epsilon=1.0, audit=True)
SPENT = {"epsilon": 1.0, "epsilon_renyi": 1.1, "noise_multiplier": 2.0}
PRIVACY = {
    "guarantee": True,
    "unit": "example",
    "delta": 1e-5,
    "clip_norm": 1.0,
    "clipping": "flat",
}


def result(**silos: object) -> RunResult:
    found = RunResult("run", "simulate", "digits", "fedavg", ["north"])
    found.privacy = {**PRIVACY, "silos": silos}
    return found


def scores(folder: Path, *, telling: bool) -> None:
    draws = np.random.default_rng(0)
    coins = draws.random(200) < 0.5
    known = coins.astype(float) if telling else draws.random(200)
    facts = canaries.FORMAT.stamp | {"coins": coins.tolist(), "scores": known.tolist()}
    FolderStore(folder).replace("north/audit/000001.json", json.dumps(facts).encode())


def test_a_bound_that_holds_is_told_beside_the_accountant_s(tmp_path: Path) -> None:
    scores(tmp_path, telling=False)
    run = result(north=SPENT)
    audited(run, ASKED, "north", 1, tmp_path)
    found = run.privacy["audit"]
    assert found["holds"] and found["epsilon_at_least"] < 1 == found["epsilon_at_most"]
    first, second = of_audit(run.privacy)
    assert "at least 0." in first and "at most 1.000 by the accountant" in first
    assert "95% confidence" in first and "200 canaries" in first
    assert "for the audit alone" in second
    assert sentences(run.privacy)[:2] == [first, second]


def test_a_bound_that_is_exceeded_is_what_a_reader_sees_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores(tmp_path, telling=True)
    run = result(north=SPENT)
    with caplog.at_level(logging.WARNING):
        audited(run, ASKED, "north", 1, tmp_path)
    assert not run.privacy["audit"]["holds"] and run.privacy["audit"]["epsilon_at_least"] > 3
    assert sentences(run.privacy)[0].startswith("MDW-387: ")
    assert "MDW-387" in caplog.text


def test_without_an_audit_or_a_round_nothing_is_told(tmp_path: Path) -> None:
    scores(tmp_path, telling=True)
    for asked in (PrivacyConf(), SampleDpConf(name="sample_dp", epsilon=1.0)):
        run = result(north=SPENT)
        audited(run, asked, "north", 1, tmp_path)
        assert "audit" not in run.privacy and of_audit(run.privacy) == []
    run = result()
    audited(run, ASKED, "north", 1, tmp_path)
    assert "audit" not in run.privacy
    run = result(north=SPENT)
    audited(run, ASKED, "north", 0, tmp_path)
    assert "audit" not in run.privacy
