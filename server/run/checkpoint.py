"""Everything that decides the next round, written after each one: immutable files and a pointer in a store.

A checkpoint is one safetensors file: the model's arrays under `model/`, the strategy's under `strategy/`, and
in its metadata the rest as JSON. The last `KEPT` are kept, so that a damaged one costs a round, not the run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from conf.errors import CheckpointError
from server.run.result import RoundRecord
from server.store.folder import Store, StoreMissing, digest, follow, point

log = logging.getLogger(__name__)

KEPT: Final = 2
POINTER: Final = "checkpoints/latest.json"
VERSION: Final = 1
_HEADER = "meadow"


@dataclass
class RunState:
    """What a run knows between two rounds; `round` is the last one that closed (0: only the first weights)."""

    round: int
    arrays: ArrayRecord
    strategy: RecordDict = field(default_factory=RecordDict)
    early_stop: dict[str, Any] = field(default_factory=dict)  # best, since
    records: list[RoundRecord] = field(default_factory=list)
    mlflow_run_id: str | None = None
    anchor: str = ""  # of the ledger after this round (`server.run.ledger.Anchor`)
    seconds: float = 0.0  # of all processes that worked on this run


class Checkpoints:
    """The checkpoints of one run in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, state: RunState) -> None:
        """Write a state and make it the latest; the older ones beyond `KEPT` go.

        Raises CheckpointError (MDW-513 to 517) when the disk is full or fails; the earlier ones stay usable.
        """
        data = encode(state)
        name = f"checkpoints/round-{state.round:06d}.{digest(data)[:16]}.safetensors"
        self._store.put_if_absent(name, data)
        point(self._store, POINTER, name, digest(data))
        for old in self._files()[:-KEPT]:
            self._store.delete(old)

    def load(self) -> RunState | None:
        """Return the latest usable state, or None if none was ever written.

        A torn or damaged file is logged and the one before it is used; raises CheckpointError MDW-501 when
        files exist and none can be used.
        """
        try:
            return decode(follow(self._store, POINTER)[1])
        except StoreMissing:
            if not self._files():
                return None
            log.error(
                "the pointer to the latest checkpoint is missing; looking at the files themselves"
            )
        except CheckpointError as error:
            log.error("the latest checkpoint is damaged, using the one before it: %s", error)
        for name in reversed(self._files()):
            data = self._store.read(name)
            if digest(data)[:16] == name.split(".")[-2]:
                return decode(data)
            log.error("%s is damaged: its digest is not the one in its name", name)
        raise CheckpointError(
            "MDW-501",
            f"No checkpoint of {self._store!r} can be read.",
            "Start the run anew without run.resume.",
        )

    def _files(self) -> list[str]:
        return [
            name for name in self._store.list("checkpoints/round-") if name.endswith(".safetensors")
        ]


def encode(state: RunState) -> bytes:
    """Return a state as the bytes of one safetensors file."""
    tensors = {
        f"model/{name}": np.asarray(array.numpy(), order="C")
        for name, array in state.arrays.items()
    }
    values: dict[str, Any] = {}
    for key, record in state.strategy.items():
        if isinstance(record, ArrayRecord):
            tensors |= {
                f"strategy/{key}/{name}": np.asarray(a.numpy(), order="C")
                for name, a in record.items()
            }
            values[key] = {"kind": "arrays", "order": list(record)}
        else:
            values[key] = {
                "kind": "metrics" if isinstance(record, MetricRecord) else "config",
                "values": dict(record),
            }
    header = {
        "version": VERSION,
        "round": state.round,
        "order": list(state.arrays),
        "strategy": values,
        "early_stop": state.early_stop,
        "records": [asdict(record) for record in state.records],
        "mlflow_run_id": state.mlflow_run_id,
        "anchor": state.anchor,
        "seconds": state.seconds,
    }
    return save(tensors, {_HEADER: json.dumps(header)})


def decode(data: bytes) -> RunState:
    """Return the state in the bytes of a checkpoint; raises CheckpointError MDW-502 for anything else."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
        tensors = load(data)
    except (ValueError, LookupError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            "MDW-502", f"This is not a checkpoint of Meadow: {error}.", "Use another."
        ) from error
    if header["version"] != VERSION:
        raise CheckpointError(
            "MDW-502",
            f"The checkpoint has version {header['version']}, this Meadow reads {VERSION}.",
            "Update Meadow.",
        )
    return RunState(
        round=header["round"],
        arrays=ArrayRecord({name: Array(tensors[f"model/{name}"]) for name in header["order"]}),
        strategy=RecordDict(
            {key: _record(key, value, tensors) for key, value in header["strategy"].items()}
        ),
        early_stop=header["early_stop"],
        records=[RoundRecord(**record) for record in header["records"]],
        mlflow_run_id=header["mlflow_run_id"],
        anchor=header["anchor"],
        seconds=header["seconds"],
    )


def _record(
    key: str, value: dict[str, Any], tensors: dict[str, np.ndarray]
) -> ArrayRecord | MetricRecord | ConfigRecord:
    if value["kind"] == "arrays":
        return ArrayRecord(
            {name: Array(tensors[f"strategy/{key}/{name}"]) for name in value["order"]}
        )
    return (
        MetricRecord(value["values"])
        if value["kind"] == "metrics"
        else ConfigRecord(value["values"])
    )
