"""On file systems of other kinds Meadow works, or says what they lack; nothing half-done is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.federation import ROOT
from tests.faults.foreign_disks import KINDS, ForeignDisk, foreign_disk
from tests.faults.warm_commands import SMALL

ALL_WELL = {"files": "well", "locks": "well", "store": "well", "case": "well", "keys": "well"}
WORK = {
    # Keys need modes (MDW-776), and two silos of one name in other letters are told apart nowhere.
    "exfat": {**ALL_WELL, "case": "MDW-536", "keys": "MDW-776"},
    "ntfs": {**ALL_WELL, "keys": "MDW-776"},
    "modeless share": {**ALL_WELL, "keys": "MDW-776"},
    "folding ext4": {**ALL_WELL, "case": "MDW-536"},
    "overlay": ALL_WELL,
    "small tmpfs": ALL_WELL,
    "noexec": ALL_WELL,
    "read-only": {
        **dict.fromkeys(("files", "locks", "store", "case"), "MDW-514"),
        "keys": "MDW-713",
    },
    "no more inodes": {
        **dict.fromkeys(("files", "locks", "store", "case"), "MDW-513"),
        "keys": "MDW-713",
    },
}


def at(disk: ForeignDisk, *command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    inside = disk.inside("env", f"PYTHONPATH={ROOT}", sys.executable, *command, cwd=cwd)
    return subprocess.run(inside, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_kept_there_or_the_true_cause_is_named(kind: str, tmp_path: Path) -> None:
    with foreign_disk(kind, tmp_path) as disk:
        done = at(disk, "-m", "tests.faults.on_a_disk", str(disk.path))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("left") == ""
    expected = WORK[kind]
    if kind == "no more inodes":
        # The first file takes what there is: what comes later may find nothing to make.
        assert set(said.values()) <= {"well", "MDW-513", "MDW-713"} and "MDW-513" in said.values()
        return
    assert said == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["exfat", "ntfs", "modeless share", "overlay", "noexec", "folding ext4"]
)
def test_a_whole_run_and_its_resumption_work_there(kind: str, tmp_path: Path) -> None:
    with foreign_disk(kind, tmp_path) as disk:
        main = ("-m", "azureml_jobs.cli.main")
        env = f"TMPDIR={disk.path}"
        own = [word for word in SMALL if word.startswith("simulation")]
        # By its whole path: nsenter opens a working folder before it enters.
        run = disk.path / "outputs/a"
        first = [*SMALL, "run.name=a", f"run.output={run.parent}"]
        for words in (first, [*own, f"run.resume={run}", "run.rounds=3"]):
            inside = disk.inside(
                "env", f"PYTHONPATH={ROOT}", env, sys.executable, *main, "simulate", *words,
            )  # fmt: skip
            done = subprocess.run(inside, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        checked = at(disk, *main, "verify", f"run={run}")
        assert "Traceback" not in checked.stderr
        result = json.loads((disk.seen / "outputs/a/result.json").read_text())
        assert (result["status"], result["rounds"]) == ("finished", 3)
        assert not list((disk.seen / "outputs").rglob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["read-only", "no more inodes"])
def test_a_run_that_can_not_be_kept_there_says_why_and_leaves_nothing(
    kind: str, tmp_path: Path
) -> None:
    with foreign_disk(kind, tmp_path) as disk:
        command = ["simulate", *SMALL, f"run.output={disk.path}/outputs", "run.name=a"]
        done = at(disk, "-m", "azureml_jobs.cli.main", *command)
        assert done.returncode == 2 and "error MDW-182" in done.stderr, done.stderr
        cause = "Read-only file system" if kind == "read-only" else "The disk is full"
        assert cause in done.stderr and "Traceback" not in done.stderr
        assert not list(disk.seen.rglob("a"))
