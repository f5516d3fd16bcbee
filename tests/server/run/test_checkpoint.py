"""A checkpoint gives back every bit, and a damaged one costs a round, not the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load

from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.prefix import PrefixStore
from conf.errors import CheckpointError
from server.run.checkpoint import KEPT, Checkpoints, Kept, RunState, decode, encode
from server.run.history import Mark
from strategies.wire.digests import arrays_digest
from strategies.wire.objects import as_declared
from tests.azureml_jobs.storage.watching import Clock, taken_over


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
    mark = Mark(round, 100 * round, "ab" * 32)
    return RunState(
        round,
        arrays,
        strategy,
        {"best": 0.5, "since": 1},
        mark,
        "mlflow-1",
        "7:abc",
        12.5,
        counted={"north": round},
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
    assert (loaded.round, loaded.early_stop, loaded.history) == (
        saved.round,
        saved.early_stop,
        saved.history,
    )
    assert (loaded.mlflow_run_id, loaded.anchor, loaded.seconds) == ("mlflow-1", "7:abc", 12.5)
    assert loaded.counted == {"north": 3}


def test_bfloat16_comes_back_as_such_and_is_not_there_for_a_reader_that_does_not_know_it() -> None:
    saved = state(3)
    half = as_declared("bfloat16", np.array([0x3F80, 0x4000], np.uint16))
    saved.arrays["half"] = half
    saved.best = Kept(2, saved.arrays, 0.5)
    moments = saved.strategy["moments"]
    assert isinstance(moments, ArrayRecord)
    moments["half"] = half
    data = encode(saved)
    loaded = decode(data)
    assert loaded.best is not None and isinstance(loaded.strategy["moments"], ArrayRecord)
    for record in (loaded.arrays, loaded.best.arrays, loaded.strategy["moments"]):
        assert record["half"].dtype == "bfloat16" and record["half"].data == half.data
    assert arrays_digest(loaded.arrays) == arrays_digest(saved.arrays)
    assert "model/half" not in load(data) and "model/z.weight" in load(data)


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
    store, now = FolderStore(tmp_path, lambda: 0.0), FolderStore(tmp_path, Clock(step=1))
    former = store.acquire("orchestrator", "former", 20)
    deposed = Checkpoints(PrefixStore(store, "runs/a/", former))
    deposed.save(state(1))
    successor = taken_over(now, "orchestrator", "successor", 20)
    live = Checkpoints(PrefixStore(now, "runs/a/", successor))
    for round in (2, 3):
        live.save(state(round))
    before = {name: store.read(name) for name in store.list("runs/")}
    with pytest.raises(LeaseLost, match="MDW-516"):
        deposed.save(state(2))
    assert {name: store.read(name) for name in store.list("runs/")} == before
    loaded = live.load()
    assert loaded is not None and loaded.round == 3


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a checkpoint's own header and the bytes after the file's."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    return outer, data[8 + length :]


def with_header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the bytes of a checkpoint whose header was changed."""
    outer, rest = header_of(data)
    inner = json.loads(outer["__metadata__"]["meadow"])
    changed = change(inner)
    outer["__metadata__"]["meadow"] = json.dumps(inner if changed is None else changed)
    text = json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize("version", [99, 1, 0])
def test_another_version_is_refused_and_both_are_named(version: int) -> None:
    data = with_header(encode(state(1)), lambda header: header.update(version=version))
    with pytest.raises(CheckpointError, match=rf"MDW-505.*version {version};.*version 2\."):
        decode(data, "checkpoints/x")


@pytest.mark.parametrize(
    "key",
    ["version", "round", "order", "strategy", "early_stop", "history", "mlflow_run_id", "anchor",
     "seconds"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["missing", None, [], {}, "text", -1, True, 1e300])
def test_any_header_is_read_or_refused_with_the_one_code(key: str, value: Any) -> None:
    def change(header: dict[str, Any]) -> None:
        header[key] = value
        if value == "missing":
            del header[key]

    try:
        decode(with_header(encode(state(1)), change))
    except CheckpointError as error:
        assert error.code in ("MDW-502", "MDW-505")
    else:
        assert value != "missing"


@pytest.mark.parametrize("value", [[1], "text", 7, {}, {"round": "x", "value": 1.0}, {"round": 1}])
def test_a_best_model_whose_round_or_value_is_not_there_is_refused(value: Any) -> None:
    one = state(2)
    one.best = Kept(1, one.arrays, 0.5)
    decode(encode(one))
    with pytest.raises(CheckpointError, match="MDW-502"):
        decode(with_header(encode(one), lambda header: header.update(best=value)))


def test_a_best_model_whose_arrays_are_not_there_is_refused() -> None:
    claimed = {"round": 1, "value": 0.5}
    with pytest.raises(CheckpointError, match="MDW-502"):
        decode(with_header(encode(state(2)), lambda header: header.update(best=claimed)))


@pytest.mark.parametrize("header", [[], "text", 7, None, {"version": 2}])
def test_a_header_that_is_not_one_is_refused(header: object) -> None:
    outer, rest = header_of(encode(state(1)))
    outer["__metadata__"]["meadow"] = json.dumps(header)
    text = json.dumps(outer).encode()
    with pytest.raises(CheckpointError, match="MDW-502"):
        decode(len(text).to_bytes(8, "little") + text + rest)
    for data in (b"", b"12345678", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"):
        with pytest.raises(CheckpointError, match="MDW-502"):
            decode(data)


def test_without_its_pointer_the_newest_file_is_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(FolderStore(tmp_path))
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (tmp_path / "checkpoints/latest.json").unlink()
    loaded = checkpoints.load()
    assert loaded is not None and loaded.round == 2


def test_a_checkpoint_of_a_round_that_never_counted_goes_with_the_next(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    checkpoints = Checkpoints(store)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    pointer = store.read("checkpoints/latest.json")
    checkpoints.save(state(3))
    # As after a crash before the pointer was replaced, and the round done again with other seconds.
    store.replace("checkpoints/latest.json", pointer)
    again = state(3)
    again.seconds = 99.0
    checkpoints.save(again)
    rounds = [name.rpartition("round-")[2][:6] for name in store.list("checkpoints/round-")]
    assert rounds == ["000002", "000003"]


def test_the_header_does_not_grow_with_the_rounds() -> None:
    early, late = state(3), state(3)
    late.history = Mark(99_999, 999_999_999, "ab" * 32)
    assert len(encode(late)) - len(encode(early)) < 64
