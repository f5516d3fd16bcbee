"""A run that is killed (SIGKILL) at any step of a round's closing is resumed, and ends with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.run.audit import audit
from server.run.history import FILE, read_history
from server.simulation import simulate
from tests.faults.federation import ROOT

RUN = ["task=digits", "data.examples=200", "federation.size=2", "model.hidden=[8]"]
RUN += ["simulation=pool", "simulation.workers=0", "tracking=off", "run.seed=5", "run.rounds=3"]
PROGRAM = """
import os, pkgutil, signal, sys

def dying(target, call, before):
    owner, _, name = target.rpartition(".")
    holder = pkgutil.resolve_name(owner)
    real = getattr(holder, name)
    calls = []

    def killed(*args, **more):
        calls.append(None)
        if len(calls) == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*args, **more)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(holder, name, killed)

from server.simulation import simulate
dying(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "before")
simulate(sys.argv[4:])
"""
PLACES = [
    ("server.run.history.History.append", 2, "after", 2),
    ("server.run.ledger.Ledger.round_closed", 2, "after", 2),
    # A checkpoint is also written before the first round.
    ("server.run.checkpoint.point", 3, "before", 2),
    ("server.run.checkpoint.point", 3, "after", 2),
    # After the last round, while the model is tested.
    ("server.round.rounds.final_test", 1, "before", 3),
    ("server.run.ledger.Ledger.model_tested", 1, "after", 3),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = simulate([*RUN, "run.name=a", f"run.output={tmp_path_factory.mktemp('whole')}"])
    return str(done.result.model["digest"])


@pytest.mark.parametrize(("target", "call", "when", "lines"), PLACES)
def test_it_is_resumed_with_the_same_bits(
    tmp_path: Path, undisturbed: str, target: str, call: int, when: str, lines: int
) -> None:
    words = [*RUN, "run.name=a", f"run.output={tmp_path}"]
    command = [sys.executable, "-c", PROGRAM, target, f"{call}", when, *words]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    folder = tmp_path / "a"
    assert len((folder / FILE).read_bytes().splitlines()) == lines
    done = simulate([f"run.output={tmp_path}", "run.resume=a"])
    assert done.result.model["digest"] == undisturbed
    assert [record.round for record in read_history(folder)] == [1, 2, 3]
    assert audit(folder).status == "unconfirmed"
    metrics = (folder / "metrics.jsonl").read_text().splitlines()
    rounds = 3 * (2 * 2 + 1)
    test = 2 + 1
    assert len(metrics) == rounds + test, "each silo, phase and aggregate of a round once"
