"""fp16's scale is the silo's over rounds: kept with its state, in every engine, also when resumed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, RecordDict

import meadow
from azureml_jobs.storage.folder_store import FolderStore
from client import memory
from client.context_state import versions
from client.loss_scale import GOOD_STEPS
from server.run.checkpoint import Checkpoints
from server.run.history import read_history
from server.run.silo_states import SiloStates
from strategies.wire import protocol

RUN = [
    "task=digits",
    "model=mlp",
    "data.examples=120",
    "federation.size=2",
    "trainer.precision=fp16",
    "run.name=one",
]
ROUNDS = 3


def good_steps(state: RecordDict) -> int:
    """Return the good steps that the last round left in a silo's kept state."""
    _, last = max(versions(state).items(), key=lambda one: one[0][1])
    (name,) = [name for name in last if name.endswith(f"|{memory.SCALING}")]
    return int(protocol.to_state(protocol.records(last, ArrayRecord)[name])[GOOD_STEPS])


@pytest.mark.parametrize("way", ["here", "pool", "resumed"])
def test_the_scale_goes_on_from_round_to_round(way: str, tmp_path: Path) -> None:
    common = [*RUN, f"run.output={tmp_path}", f"simulation.workers={1 if way == 'pool' else 0}"]
    first = ROUNDS - 1 if way == "resumed" else ROUNDS
    run = meadow.simulate([*common, f"run.rounds={first}"])
    if way == "resumed":
        resumed = ["run.resume=one", f"run.rounds={ROUNDS}", f"run.output={tmp_path}"]
        run = meadow.simulate(resumed)
    assert run.result.rounds == ROUNDS
    state = Checkpoints(FolderStore(tmp_path / "one")).load()
    assert state is not None
    states = SiloStates(tmp_path / "one/checkpoints", "one", state.silo_states)
    states.restore()
    record = next(iter(read_history(tmp_path / "one")))
    for silo, kept in states.in_memory.items():
        # 96 of 120 examples train, at two silos, in batches of 32; none overflowed.
        steps = math.ceil(record.train[silo][protocol.NUM_EXAMPLES] / 32)
        assert good_steps(kept) == ROUNDS * steps
        assert record.train[silo][protocol.SKIPPED_STEPS] == 0
    assert len(states.in_memory) == 2
