"""A simulation whose silos have a state is killed (SIGKILL) while a round closes, is resumed, and has the bits of
the unbroken run; also where not every silo is asked in every round.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import CheckpointError
from server.engines import pool
from server.run.finished import FinishedRun
from server.simulation import simulate
from tests.faults import stateful
from tests.faults.federation import ROOT
from tests.faults.test_killed_while_closing import PROGRAM

RUN = ["task=digits", "data.examples=200", "federation.size=4", "model.hidden=[8]"]
RUN += ["simulation=pool", "simulation.workers=0", "tracking=off", "run.seed=5", "run.rounds=7"]
RUN += ["run.cohort=2", "run.name=a"]
WITH_STATE = """
from server.engines import pool
from tests.faults import stateful
pool.load_app = lambda name: stateful.app
"""
PLACES = [
    ("server.run.ledger.Ledger.round_closed", 4, "after"),
    ("server.run.silo_states.write_synced", 4, "before"),
    ("server.run.silo_states.SiloStates.keep", 4, "after"),
    ("server.run.silo_states.SiloStates.keep", 1, "after"),
    # A checkpoint is also written before the first round.
    ("server.run.checkpoint.point", 5, "before"),
    ("server.run.checkpoint.point", 5, "after"),
    ("server.run.silo_states.SiloStates.tidy", 5, "before"),
]


@pytest.fixture(autouse=True)
def with_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "load_app", lambda name: stateful.app)


def digest(run: FinishedRun) -> str:
    return str(run.result.model["digest"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "load_app", lambda name: stateful.app)
        return digest(simulate([*RUN, f"run.output={tmp_path_factory.mktemp('whole')}"]))


@pytest.mark.parametrize(
    ("target", "call", "when", "small_files"),
    [*((*place, False) for place in PLACES), (*PLACES[2], True), (*PLACES[5], True)],
)
def test_it_is_resumed_with_the_same_bits(
    tmp_path: Path,
    undisturbed: str,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    call: int,
    when: str,
    small_files: bool,
) -> None:
    program = PROGRAM.replace("import os,", WITH_STATE + "import os,", 1)
    if small_files:
        # The file is written anew every few rounds.
        program = "from server.run import silo_states\nsilo_states.WASTE_BYTES = 1\n" + program
        monkeypatch.setattr("server.run.silo_states.WASTE_BYTES", 1)
    command = [sys.executable, "-c", program, target, f"{call}", when, *RUN]
    command.append(f"run.output={tmp_path}")
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert digest(simulate([f"run.output={tmp_path}", "run.resume=a"])) == undisturbed


def states_file(folder: Path) -> Path:
    (file,) = (folder / "checkpoints").glob("silo-states-*.bin")
    return file


def stopped_after(rounds: int, folder: Path) -> Path:
    simulate([*RUN, f"run.rounds={rounds}", f"run.output={folder}"])
    return states_file(folder / "a")


def test_a_run_without_its_silos_states_ends_otherwise(tmp_path: Path, undisturbed: str) -> None:
    file = stopped_after(4, tmp_path)
    # As if nothing had ever been marked: what the other tests would not notice.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.run.silo_states.SiloStates.restore", lambda self: None)
        resumed = simulate([f"run.output={tmp_path}", "run.resume=a", "run.rounds=7"])
    assert digest(resumed) != undisturbed
    assert file.exists()


def test_a_run_whose_latest_checkpoint_is_damaged_goes_on_from_the_one_before(
    tmp_path: Path, undisturbed: str
) -> None:
    stopped_after(4, tmp_path)
    latest = sorted((tmp_path / "a" / "checkpoints").glob("round-*"))[-1]
    latest.write_bytes(latest.read_bytes()[:-9])
    resumed = simulate([f"run.output={tmp_path}", "run.resume=a", "run.rounds=7"])
    assert digest(resumed) == undisturbed


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        simulate([f"run.output={folder}", "run.resume=a", "run.rounds=7"])
    return caught.value


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_torn_file_is_noticed(tmp_path: Path, left: int) -> None:
    file = stopped_after(4, tmp_path)
    file.write_bytes(file.read_bytes()[:left])
    error = refused(tmp_path)
    assert error.code == "MDW-512" and str(file) in error.message


def test_a_file_that_is_gone_is_noticed(tmp_path: Path) -> None:
    file = stopped_after(4, tmp_path)
    file.unlink()
    error = refused(tmp_path)
    assert error.code == "MDW-512" and str(file) in error.message


def test_a_flipped_bit_in_a_state_is_noticed_and_named(tmp_path: Path) -> None:
    file = stopped_after(4, tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    error = refused(tmp_path)
    assert error.code == "MDW-519"
    assert "The state of silo-" in error.message and str(file) in error.message


def test_what_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    file = stopped_after(4, tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    refused(tmp_path)
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_run_without_state_has_no_such_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    simulate([*RUN, "run.rounds=2", f"run.output={tmp_path}"])
    assert not list((tmp_path / "a" / "checkpoints").glob("silo-states*"))
