"""Everything that decides the next round, written after each one: immutable files and a pointer in
a store.

A checkpoint is one safetensors file: the model's arrays under `model/`, the strategy's under
`strategy/`, with `run.keep=best` the best round's under `best/` (before these `bfloat16/` for the
bits of such arrays), and in its metadata the rest as JSON. The last `KEPT` are kept, so that a damaged one
costs a round, not the run. The rounds themselves are in the history (`server.run.history`); a
checkpoint marks how much of it counts, so its size does not grow with the rounds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from azureml_jobs.storage.base import Store, StoreMissing
from azureml_jobs.storage.pointer import digest, follow, point
from conf.errors import CheckpointError
from conf.versions import Format
from server.run.history import Mark
from server.run.silo_states import StatesMark
from strategies.wire.objects import BFLOAT16, array_of, as_declared

log = logging.getLogger(__name__)

KEPT: Final = 2
POINTER: Final = "checkpoints/latest.json"
FORMAT: Final = Format("checkpoint", 2, damaged="MDW-502", fix="Use another.")
_HEADER = "meadow"
_NAME = re.compile(r"checkpoints/round-(\d+)\.([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Kept:
    """A model that a run may end with: its round, and the value that chose it."""

    round: int
    arrays: ArrayRecord
    value: float | None = None


@dataclass
class RunState:
    """What a run knows between two rounds; `round` is the last one that closed (0: only the first
    weights).
    """

    round: int
    arrays: ArrayRecord
    strategy: RecordDict = field(default_factory=RecordDict)
    early_stop: dict[str, Any] = field(default_factory=dict)  # best, since
    history: Mark = field(default_factory=Mark)  # how much of history.jsonl counts
    mlflow_run_id: str | None = None
    anchor: str = ""  # of the ledger after this round (`server.run.ledger.Anchor`)
    seconds: float = 0.0  # of all processes that worked on this run
    # How much of the file of a simulation's silos' states counts.
    silo_states: StatesMark = field(default_factory=StatesMark)
    best: Kept | None = None  # of the best round, with run.keep=best
    counted: dict[str, int] = field(default_factory=dict)  # round by silo (`server.round.counted`)
    norm_median: float | None = None  # of the updates of this round, for `run.admission`

    def become(self, other: RunState) -> None:
        """Take over another state, all of it at once: whoever holds this one sees the closed round."""
        vars(self).update(vars(other))


class Checkpoints:
    """The checkpoints of one run in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, state: RunState) -> None:
        """Write a state and make it the latest; the older ones beyond `KEPT` go.

        Raises CheckpointError (MDW-513 to 517) when the disk is full or fails; the earlier ones
        stay usable.
        """
        data = encode(state)
        sha256 = digest(data)
        name = f"checkpoints/round-{state.round:06d}.{sha256[:16]}.safetensors"
        self._store.put_if_absent(name, data)
        # From here on the round counts; what follows only tidies up.
        point(self._store, POINTER, name, sha256)
        for old in self._outlived(name, state.round):
            self._store.delete(old)

    def load(self) -> RunState | None:
        """Return the latest usable state, or None if none was ever written.

        A torn or damaged file is logged and the one before it is used; raises CheckpointError
        MDW-501 when files exist and none can be used.
        """
        try:
            name, data = follow(self._store, POINTER)
            return decode(data, name)
        except StoreMissing:
            if not self._files():
                return None
            log.error(
                "the pointer to the latest checkpoint is missing; looking at the files themselves"
            )
        except CheckpointError as error:
            log.error("the latest checkpoint is damaged, using the one before it: %s", error)
        # Newest first: an older one costs rounds that are there.
        for name in reversed(self._files()):
            data = self._store.read(name)
            match = _NAME.fullmatch(name)
            if match and digest(data)[:16] == match[2]:
                return decode(data, name)
            log.error("%s is damaged: its digest is not the one in its name", name)
        raise CheckpointError(
            "MDW-501",
            f"No checkpoint of {self._store!r} can be read.",
            "Start the run anew without run.resume.",
        )

    def _outlived(self, latest: str, round: int) -> list[str]:
        """Return the files that nobody will need: old ones, and those of a round that never
        counted.
        """
        earlier = [name for name in self._files() if name != latest and _round_of(name) < round]
        kept = {latest, *earlier[-(KEPT - 1) :]}
        return [name for name in self._files() if name not in kept]

    def _files(self) -> list[str]:
        return [name for name in self._store.list("checkpoints/round-") if _NAME.fullmatch(name)]


def _round_of(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def encode(state: RunState) -> bytes:
    """Return a state as the bytes of one safetensors file."""
    tensors = _tensors("model/", state.arrays)
    values: dict[str, Any] = {}
    for key, record in state.strategy.items():
        if isinstance(record, ArrayRecord):
            tensors |= _tensors(f"strategy/{key}/", record)
            values[key] = {"kind": "arrays", "order": list(record)}
        else:
            values[key] = {
                "kind": "metrics" if isinstance(record, MetricRecord) else "config",
                "values": dict(record),
            }
    if state.best is not None:
        tensors |= _tensors("best/", state.best.arrays)
    header = FORMAT.stamp | {
        "round": state.round,
        "order": list(state.arrays),
        "strategy": values,
        "early_stop": state.early_stop,
        "history": state.history.to_json(),
        "mlflow_run_id": state.mlflow_run_id,
        "anchor": state.anchor,
        "seconds": state.seconds,
    }
    if state.silo_states.file:
        header["silo_states"] = state.silo_states.to_json()
    if state.best is not None:
        header["best"] = {"round": state.best.round, "value": state.best.value}
    if state.counted:
        header["counted"] = state.counted
    if state.norm_median is not None:
        header["norm_median"] = state.norm_median
    return save(tensors, {_HEADER: json.dumps(header)})


def _tensors(before: str, record: ArrayRecord) -> dict[str, np.ndarray]:
    return {
        _key(before, name, half=array.dtype == BFLOAT16): np.asarray(array.numpy(), order="C")
        for name, array in record.items()
    }


def _arrays(before: str, names: Sequence[str], tensors: Mapping[str, np.ndarray]) -> ArrayRecord:
    record = ArrayRecord()
    for name in names:
        half = tensors.get(_key(before, name, half=True))
        if half is None:
            record[name] = array_of(tensors[_key(before, name, half=False)])
        else:
            record[name] = as_declared(BFLOAT16, half)
    return record


def _key(before: str, name: str, *, half: bool) -> str:
    """Return an array's name in the file; one of bfloat16 lies there as its bits, under a name where
    no reader that does not know it finds it.
    """
    return f"{BFLOAT16}/{before}{name}" if half else f"{before}{name}"


def decode(data: bytes, where: str = "It") -> RunState:
    """Return the state in the bytes of a checkpoint; `where` names them in errors.

    Raises CheckpointError: MDW-505 for another version, MDW-502 for anything that is not a
    checkpoint of Meadow.
    """
    with _reading(where):
        length = int.from_bytes(data[:8], "little")
        text = json.loads(data[8 : 8 + length])["__metadata__"][_HEADER]
    header = FORMAT.loads(text, where)
    with _reading(where):
        return _state(header, load(data))


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    with FORMAT.reading(where):
        try:
            yield
        except SafetensorError as error:
            raise ValueError(str(error)) from error


def _state(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> RunState:
    early_stop = header["early_stop"]
    if not isinstance(header["round"], int) or not isinstance(early_stop, dict):
        raise TypeError("the round is not a number, or early_stop is not an object")
    arrays = _arrays("model/", header["order"], tensors)
    strategy = {key: _record(key, value, tensors) for key, value in header["strategy"].items()}
    return RunState(
        round=header["round"],
        arrays=arrays,
        strategy=RecordDict(strategy),
        early_stop=early_stop,
        best=_best(header, tensors),
        counted={str(silo): int(round) for silo, round in header.get("counted", {}).items()},
        history=Mark.from_json(header["history"]),
        norm_median=_number(header.get("norm_median")),
        silo_states=_states(header.get("silo_states")),
        mlflow_run_id=_text(header["mlflow_run_id"]),
        anchor=_text(header["anchor"]) or "",
        seconds=float(header["seconds"]),
    )


def _states(raw: dict[str, Any] | None) -> StatesMark:
    return StatesMark() if raw is None else StatesMark.from_json(raw)


def _best(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Kept | None:
    best = header.get("best")
    if best is None:
        return None
    arrays = _arrays("best/", header["order"], tensors)
    return Kept(int(best["round"]), arrays, float(best["value"]))


def _number(value: object) -> float | None:
    if value is not None and type(value) is not float:
        raise TypeError(f"{value!r} is not a number")
    return value


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _record(
    key: str, value: dict[str, Any], tensors: dict[str, np.ndarray]
) -> ArrayRecord | MetricRecord | ConfigRecord:
    kind = value["kind"]
    if kind == "arrays":
        return _arrays(f"strategy/{key}/", value["order"], tensors)
    if kind == "metrics":
        return MetricRecord(value["values"])
    if kind == "config":
        return ConfigRecord(value["values"])
    raise ValueError(f"{key} is of the kind {kind!r}")
