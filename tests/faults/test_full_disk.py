"""A disk that is really full in the middle of a run: the run ends in one line, and goes on once there is room."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from azureml_jobs.backends.local_jobs import ENDED, LocalJobs
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError
from server.run.audit import audit
from server.scoring.evaluation import load_model
from server.simulation import simulate
from tests.faults.federation import ROOT, until
from tests.faults.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.slow

SMALL = ["task=digits", "data.examples=200", "federation.size=2"]
POOL = ["simulation=pool", "simulation.workers=0"]
FULL = "MDW-513: The disk is full: can't write "


@contextmanager
def meadow(disk: SmallDisk, folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A command at work where the small disk is, ended with the block."""
    command = disk.inside(
        "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "azureml_jobs.cli.main", *args
    )
    command[2] = f"--wd={folder}"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def filled(
    disk: SmallDisk, process: subprocess.Popen[str], done: Callable[[], list[str]]
) -> tuple[int, str]:
    """Fill the disk after the third round and return how the command ended."""
    until(lambda: process.poll() is not None or any(closed(name) >= 3 for name in done()), 120)
    assert process.poll() is None, process.communicate()[0]
    disk.fill()
    said = process.communicate(timeout=120)[0]
    return process.returncode, said


def closed(checkpoint: str) -> int:
    """Return the round after which a checkpoint was written."""
    return int(checkpoint.rpartition("round-")[2][:6])


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]


def same_bits(ours: Path, theirs: Path) -> bool:
    one, two = load_model(ours).state_dict(), load_model(theirs).state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_simulation_whose_output_folder_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        run = disk.seen / "outputs/a"

        def checkpoints() -> list[str]:
            return sorted(path.name for path in run.glob("checkpoints/round-*"))

        begin = [
            *SMALL,
            *POOL,
            f"run.output={disk.path}/outputs",
            "run.rounds=500",
            "run.name=a",
            "--no-progress",
        ]
        with meadow(disk, tmp_path, "simulate", *begin) as process:
            status, said = filled(disk, process, checkpoints)
        assert status == CheckpointError.exit_status and "Traceback" not in said
        last, hint = said.splitlines()[-2:]
        assert last.startswith(f"error {FULL}") and hint == "  Free some space, then resume."
        assert half_written(disk.seen) == []
        assert len(checkpoints()) == 2, "those of the last two rounds"
        assert json.loads((run / "result.json").read_text())["run_id"] == "a"
        assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
        assert audit(run).status == "unconfirmed"
        done = closed(checkpoints()[-1])

        disk.free()
        more = [
            f"run.resume={disk.path}/outputs/a",
            f"run.rounds={done + 2}",
            f"run.output={disk.path}/outputs",
        ]
        with meadow(disk, tmp_path, "simulate", *more, "--no-progress") as process:
            said = process.communicate(timeout=120)[0]
        assert process.returncode == 0 and f"resumed after round {done}" in said, said
        undisturbed = simulate(
            [*SMALL, *POOL, f"run.rounds={done + 2}", f"run.output={tmp_path}/plain", "run.name=a"]
        )
        assert undisturbed.result.status == "finished" and same_bits(run, tmp_path / "plain/a")


def test_a_federation_whose_store_is_full() -> None:
    with tempfile.TemporaryDirectory(prefix="meadow-full-") as made:
        folder = Path(made)
        with small_disk(folder / ".meadow/federation/store", "4m") as disk:
            federation_on_a_small_disk(folder, disk)


def federation_on_a_small_disk(folder: Path, disk: SmallDisk) -> None:
    jobs, store = LocalJobs(folder / ".meadow/federation/jobs"), FolderStore(disk.seen)

    def checkpoints() -> list[str]:
        return store.list("runs/a/checkpoints/round-")

    begin = ["launch", "all", "backend=local", *SMALL, "run.rounds=40", "run.name=a"]
    with meadow(disk, folder, *begin) as process:
        status, said = filled(disk, process, checkpoints)
    log = jobs.log("server").read_text()
    assert (
        status == CheckpointError.exit_status and FULL in said and "Traceback" not in said + log
    ), said + log
    assert log.splitlines()[-2].startswith(f"error {FULL}")
    assert {jobs.status(name).state for name in jobs.names()} == {ENDED}, (
        "nothing half-started stays"
    )
    result = json.loads((folder / "outputs/a/result.json").read_text())
    assert (result["status"], result["error"]["code"]) == ("failed", "MDW-513")
    assert half_written(disk.seen) == [] and len(checkpoints()) == 2
    done = closed(checkpoints()[-1])
    assert result["rounds"] == done, "a round whose checkpoint found no room does not count"

    disk.free()
    with meadow(disk, folder, "launch", "all", "backend=local", "run.resume=a") as process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and f"resumed after round {done}" in said, said
    simulate([*SMALL, *POOL, "run.rounds=40", f"run.output={folder}/plain", "run.name=a"])
    assert same_bits(folder / "outputs/a", folder / "plain/a")
    assert audit(folder / "outputs/a").status == "unconfirmed"
