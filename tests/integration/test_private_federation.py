"""A federation of processes whose silos keep an account: their owner's bound outlives runs and restarts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

MEADOW = [sys.executable, "-m", "azureml_jobs.cli.main"]
FILE = """
silos:
  north: {data: {partition: iid}, policy: {epsilon_at_most: 3.0}}
  south: {data: {partition: iid}, policy: {privacy_at_least: sample_dp}}
"""
PRIVATE = [
    "backend=local",
    "federation.file=federation.yaml",
    "privacy=sample_dp",
    "privacy.epsilon=2",
    "strategy.weighting=equal",
    "run.rounds=2",
    "run.quorum=1",
    "tracking=off",
]
NORTH = Path(".meadow/federation/jobs/silo-north")


def meadow(folder: Path, *words: str, status: int = 0) -> str:
    """Return what a command says, after it ended with a status."""
    done = subprocess.run(
        [*MEADOW, *words], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def launched(folder: Path, run: str) -> dict[str, Any]:
    meadow(folder, "launch", "all", *PRIVATE, f"run.name={run}")
    result: dict[str, Any] = json.loads((folder / "outputs" / run / "result.json").read_text())
    return result


def budget(folder: Path, *flags: str) -> str:
    where = [
        f"state={NORTH / 'state'}",
        f"keys={NORTH / 'keys'}",
        "federation.file=federation.yaml",
    ]
    return meadow(folder, "budget", "north", *where, *flags)


def test_an_owner_s_bound_holds_over_runs_and_what_was_spent_is_shown(tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(FILE)
    first = launched(tmp_path, "one")
    assert set(first["privacy"]["silos"]) == {"south"}, "north's owner has begun no account"
    assert "begun" in budget(tmp_path, "--begin")
    second = launched(tmp_path, "two")
    assert set(second["privacy"]["silos"]) == {"north", "south"}
    assert second["privacy"]["silos"]["north"]["epsilon"] <= 2
    third, fourth = launched(tmp_path, "three"), launched(tmp_path, "four")
    assert set(third["privacy"]["silos"]) == {"north", "south"}
    assert fourth["failed"].get("north"), "2, then 2.7; a third run would be beyond 3"
    told = budget(tmp_path)
    assert "two " in told and "three " in told and "% of 3" in told
    spent = float(told.split("spent: epsilon ")[1].split(" ")[0])
    assert 2 < spent <= 3
    log = (tmp_path / NORTH / "log.txt").read_text()
    assert "MDW-373" in log


def test_a_run_without_privacy_is_refused_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(FILE)
    plain = ["backend=local", "federation.file=federation.yaml", "run.rounds=1", "tracking=off"]
    told = meadow(tmp_path, "launch", "all", *plain, status=5)
    assert "MDW-341" in told and "privacy=sample_dp" in told


def test_silo_level_privacy_is_paid_for_at_the_server_and_at_each_silo(tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(
        "silos:\n"
        "  north: {data: {partition: iid}, policy: {privacy_at_least: silo_dp}}\n"
        "  south: {data: {partition: iid}, policy: {epsilon_at_most: 8.0}}\n"
        "  west: {data: {partition: iid}}\n"
    )
    words = [word for word in PRIVATE if not word.startswith("privacy")]
    meadow(tmp_path, "launch", "all", *words, "privacy=silo_dp", "run.name=one")
    folder = tmp_path / "outputs" / "one"
    result = json.loads((folder / "result.json").read_text())
    assert result["failed"] == {"south": 2}, "what a server promises is within no bound of examples"
    spent = result["privacy"]["silos"]
    assert set(spent) == {"north", "south", "west"}, "who was asked has paid"
    assert 7.9 < spent["north"]["epsilon"] <= 8.0
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [one["round"] for one in lines if one["event"] == "release reserved"] == [1, 2]
    assert "verified" in meadow(
        tmp_path, "verify", "run=one", "ca=.meadow/federation/keys/ca-certificate"
    )
    told = budget(tmp_path)
    assert "silo_dp" in told and "of the silo with any other data" in told


def test_an_account_put_back_from_an_old_copy_is_noticed_by_what_the_server_was_shown(
    tmp_path: Path,
) -> None:
    """And what a launched federation tells of its metrics with noise, of which the last entry is."""
    (tmp_path / "federation.yaml").write_text(
        "silos:\n  north: {data: {partition: iid}}\n  south: {data: {partition: iid}}\n"
    )
    told = [*PRIVATE, "privacy.metrics_epsilon=0.5"]
    meadow(tmp_path, "launch", "all", *told, "run.name=one")
    result = json.loads((tmp_path / "outputs" / "one" / "result.json").read_text())
    assert set(result["failed"]) == set() and result["final"]["accuracy_noise"] > 0
    for spent in result["privacy"]["silos"].values():
        assert 1.9 < spent["epsilon"] <= 2
    [account] = (tmp_path / NORTH).rglob("account")
    old = tmp_path / "copy"
    shutil.copytree(account, old)
    # The last thing that a run notes is its test: the training of the next one shows that it is there.
    again = json.loads(max(old.glob("0*.json")).read_text())
    assert again["mechanism"] == "noised_metrics" and again["released"]

    meadow(tmp_path, "launch", "all", *told, "run.name=two")
    assert len(list(account.iterdir())) > len(list(old.iterdir()))
    shutil.rmtree(account)
    shutil.copytree(old, account)
    meadow(tmp_path, "launch", "all", *told, "run.name=three")
    third = json.loads((tmp_path / "outputs" / "three" / "result.json").read_text())
    assert set(third["failed"]) == {"north"} and set(third["privacy"]["silos"]) == {"south"}
    assert sorted(one.name for one in account.iterdir()) == sorted(o.name for o in old.iterdir())
    log = (tmp_path / NORTH / "log.txt").read_text()
    assert "MDW-540" in log and "put back from an old copy" in log
