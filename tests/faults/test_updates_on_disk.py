"""A round's updates on disk, when the process is killed between two of them, and when the disk is full."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import CheckpointError
from conf.fewest import fewest_rows
from server.round.mapped_replies import HELD
from server.run.audit import audit
from server.run.history import read_history
from server.simulation import simulate
from tests.faults.federation import ROOT
from tests.faults.small_disk import small_disk
from tests.faults.test_killed_while_closing import PROGRAM

RUN = ["task=digits", "data.examples=200", "federation.size=5", "model.hidden=[8]"]
RUN += ["simulation=pool", "simulation.workers=0", "tracking=off", "run.seed=5", "run.rounds=3"]


@pytest.mark.parametrize(
    "rule",
    [
        "centered_clipping",
        pytest.param("krum", marks=pytest.mark.slow),
        pytest.param("geometric_median", marks=pytest.mark.slow),
    ],
)
def test_killed_between_two_updates_it_is_resumed_with_the_same_bits(
    rule: str, tmp_path: Path
) -> None:
    """After as many of a dry round as the rule needs, the seventh file is the second of round 2."""
    words = [*RUN, f"strategy={rule}", "run.name=a"]
    whole = simulate([*words, f"run.output={tmp_path / 'whole'}"])
    spill = "strategies.spill.Spill.add"
    command = [sys.executable, "-c", PROGRAM, spill, f"{fewest_rows(rule, 1) + 7}", "after", *words]
    killed = subprocess.run([*command, f"run.output={tmp_path}"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "a"
    assert len(list((folder / HELD).iterdir())) == 2
    done = simulate([f"run.output={tmp_path}", "run.resume=a"])
    assert done.result.model["digest"] == whole.result.model["digest"]
    assert not (folder / HELD).exists()
    assert [record.round for record in read_history(folder)] == [1, 2, 3]
    assert audit(folder).status == "unconfirmed"


@pytest.mark.slow
def test_a_disk_that_is_too_small_says_so_before_anybody_trains_and_goes_on_with_room(
    tmp_path: Path,
) -> None:
    """A model of 5 MB: its checkpoint fits, five updates of it do not."""
    words = [*RUN, "model.hidden=[20000]", "strategy=median", "run.name=a", "run.rounds=1"]
    with small_disk(tmp_path / "disk", "24m") as disk:
        outputs = f"run.output={disk.path}/outputs"
        program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "azureml_jobs.cli.main"]
        command = disk.inside(*program, "simulate", *words, outputs, "--no-progress")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == CheckpointError.exit_status and "Traceback" not in said
        assert "MDW-513: A round's 5 updates are held on disk and need 30.0 MB" in said
        run = disk.seen / "outputs/a"
        assert run.is_dir() and not (run / HELD).exists()
        larger = disk.inside("mount", "-o", "remount,size=100m", str(disk.path))
        subprocess.run(larger, check=True)
        command = disk.inside(*program, "simulate", outputs, "run.resume=a", "--no-progress")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
