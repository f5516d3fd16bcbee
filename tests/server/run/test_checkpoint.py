"""A checkpoint gives back every bit, and a damaged one costs a round, not the run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from conf.errors import CheckpointError
from server.run.checkpoint import KEPT, Checkpoints, RunState
from server.run.result import RoundRecord
from server.store.folder import Below, FolderStore, LeaseLost


def state(round: int) -> RunState:
    rng = np.random.default_rng(round)
    arrays = ArrayRecord(
        {
            "z.weight": Array(rng.normal(size=(3, 4)).astype(np.float32)),
            "a.bias": Array(rng.normal(size=()).astype(np.float64)),
            "steps": Array(np.array(round, np.int64)),
        }
    )
    moments = ArrayRecord({"m": Array(rng.normal(size=5))})
    strategy = RecordDict(
        {
            "moments": moments,
            "values": MetricRecord({"t": round}),
            "names": ConfigRecord({"x": "y"}),
        }
    )
    record = RoundRecord(round, ["a", "b"], failed={"b": "gone"}, metrics={"a": {"loss": 0.1}})
    return RunState(
        round, arrays, strategy, {"best": 0.5, "since": 1}, [record], "mlflow-1", "7:abc", 12.5
    )


def test_gives_back_every_bit_in_the_same_order(tmp_path: Path) -> None:
    saved = state(3)
    Checkpoints(FolderStore(tmp_path)).save(saved)
    loaded = Checkpoints(FolderStore(tmp_path)).load()
    assert loaded is not None
    assert list(loaded.arrays) == list(saved.arrays)
    for name, array in saved.arrays.items():
        assert loaded.arrays[name].data == array.data
    assert loaded.strategy.object_id == saved.strategy.object_id
    assert (loaded.round, loaded.early_stop, loaded.records) == (
        saved.round,
        saved.early_stop,
        saved.records,
    )
    assert (loaded.mlflow_run_id, loaded.anchor, loaded.seconds) == ("mlflow-1", "7:abc", 12.5)


def test_keeps_the_last_few_only(tmp_path: Path) -> None:
    checkpoints = Checkpoints(FolderStore(tmp_path))
    for round in range(6):
        checkpoints.save(state(round))
    assert len(list(tmp_path.glob("checkpoints/*.safetensors"))) == KEPT
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 5


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_file_is_said_and_the_one_before_it_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(FolderStore(tmp_path))
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    last = max(tmp_path.glob("checkpoints/*.safetensors"))
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes({"flip": bytes(data), "cut": bytes(data[:-7]), "empty": b""}[damage])
    with caplog.at_level(logging.ERROR):
        loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 1
    assert caplog.records


def test_nothing_usable_is_an_error_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(FolderStore(tmp_path))
    assert checkpoints.load() is None
    checkpoints.save(state(1))
    for file in tmp_path.glob("checkpoints/*.safetensors"):
        file.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="MDW-501"):
        checkpoints.load()


def test_an_orchestrator_that_lost_its_lease_replaces_nothing_of_its_successors(
    tmp_path: Path,
) -> None:
    store, now = FolderStore(tmp_path, lambda: 0.0), FolderStore(tmp_path, lambda: 100.0)
    former = store.acquire("orchestrator", "former", 20)
    deposed = Checkpoints(Below(store, "runs/a/", former))
    deposed.save(state(1))
    successor = now.acquire("orchestrator", "successor", 20)
    live = Checkpoints(Below(now, "runs/a/", successor))
    for round in (2, 3):
        live.save(state(round))
    before = {name: store.read(name) for name in store.list("runs/")}
    with pytest.raises(LeaseLost, match="MDW-516"):
        deposed.save(state(2))
    assert {name: store.read(name) for name in store.list("runs/")} == before
    loaded = live.load()
    assert loaded is not None and loaded.round == 3
