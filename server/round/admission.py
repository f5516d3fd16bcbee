"""Which replies may become part of the model: the server's check of each update, before anything reads its values.

Pure: no clock, no disk, no Flower runtime. One pass over each array, in chunks that stay in the processor's cache.
The first fault found is the reason; the silo is named in it, and the round goes on without the update.

    MDW-610 record missing or too many    MDW-614 not finite              MDW-618 a second answer
    MDW-611 names of the arrays           MDW-615 norm beyond the bound   MDW-619 not asked in this round
    MDW-612 shape or dtype                MDW-616 count of examples       MDW-620 names of the metrics
    MDW-613 size or header of an array    MDW-617 another round
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from strategies.wire import protocol
from strategies.wire.objects import BFLOAT16, DTYPES, view

MAX_EXAMPLES: Final = 2**29 - 1
"""The largest weight that fixed-point averaging has room for."""
CHUNK: Final = 1 << 15
"""Values a step: two buffers of 256 KiB in float64."""

T = TypeVar("T")


@dataclass(frozen=True)
class Admitted:
    """An update that may be aggregated; `norm` is that of its difference to the global model, None if not looked at.

    `unchecked` names the checks that were skipped because a codec of the run hides the values.
    """

    examples: int
    norm: float | None = None
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """An update that is left out, with a code of docs/errors.md and one sentence that names the silo."""

    code: str
    reason: str


Verdict = Admitted | Rejected


class AdmissionFault(ValueError):
    """What is wrong with a reply; `Admission.check` turns it into `Rejected`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Admission:
    """Checks the replies of one run, round after round.

    `max_norm` bounds the L2 norm of (update - global model) over all floating-point arrays; None = no bound.
    `visible=False` declares that a codec hides the values: neither finiteness nor norm is looked at.
    `metrics` are the names that every training reply must carry, exactly; None = any that include `num-examples`.
    """

    def __init__(
        self,
        *,
        max_norm: float | None = None,
        max_examples: int = MAX_EXAMPLES,
        visible: bool = True,
        metrics: Collection[str] | None = None,
    ) -> None:
        self._max_norm, self._max_examples, self._visible = max_norm, max_examples, visible
        self._metrics = None if metrics is None else frozenset(metrics)
        self._round, self._cohort = 0, frozenset[str]()
        self._reference: dict[str, _Reference] = {}
        self._answered: set[tuple[str, str]] = set()

    def open(self, round: int, reference: ArrayRecord, cohort: Collection[str]) -> None:
        """Begin a round: `reference` is the global model as it was sent (its layout, and what norms are from)."""
        self._round, self._cohort = round, frozenset(cohort)
        self._reference = {name: _Reference.of(array) for name, array in reference.items()}
        self._answered.clear()

    def check(self, content: RecordDict, *, silo: str, round: int, phase: str) -> Verdict:
        """Judge a reply to a message of `phase` (train or evaluate) of `round`; never raises for what is in it.

        A silo's first answer to a phase counts, whatever became of it.
        """
        try:
            self._once(silo, round, phase)
            values = _metrics(content)
            _same_round(values, self._round)
            examples = _examples(values, self._max_examples, least=1 if phase == "train" else 0)
            if phase != "train":
                return Admitted(examples)
            if self._metrics is not None and values.keys() != self._metrics:
                raise AdmissionFault(
                    "MDW-620", f"its metrics are not the run's: {_odd(values, self._metrics)}"
                )
            return self._update(_arrays(content), examples)
        except AdmissionFault as fault:
            return Rejected(fault.code, f"{silo}, round {round}, {phase}: {fault.reason}.")

    def _once(self, silo: str, round: int, phase: str) -> None:
        if round != self._round:
            raise AdmissionFault(
                "MDW-617", f"it answers round {round}, the open one is {self._round}"
            )
        if silo not in self._cohort:
            raise AdmissionFault("MDW-619", "the silo was not asked in this round")
        if (silo, phase) in self._answered:
            raise AdmissionFault("MDW-618", "the silo has already answered")
        self._answered.add((silo, phase))

    def _update(self, record: ArrayRecord, examples: int) -> Admitted:
        if record.keys() != self._reference.keys():
            raise AdmissionFault(
                "MDW-611", f"its arrays are not the model's: {_odd(record, self._reference)}"
            )
        values = {
            name: self._reference[name].values_of(name, array) for name, array in record.items()
        }
        if not self._visible:
            return Admitted(examples, None, ("finite", "norm"))
        pairs = ((name, self._reference[name], new) for name, new in values.items())
        norm = math.sqrt(
            sum(_squares(name, old.dtype, new, old.values) for name, old, new in pairs)
        )
        if self._max_norm is not None and not norm <= self._max_norm:
            raise AdmissionFault(
                "MDW-615", f"the norm of its update is {norm:.6g}, the bound {self._max_norm:.6g}"
            )
        return Admitted(examples, norm)


@dataclass(frozen=True)
class _Reference:
    """One array of the global model: the type and shape that an update's must have, and what norms are from."""

    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray

    @staticmethod
    def of(array: Array) -> _Reference:
        return _Reference(array.dtype, tuple(array.shape), _elements(array))

    def values_of(self, name: str, array: Array) -> np.ndarray:
        """Return an update's elements without a copy, once what it declares, its header and its size agree."""
        found = (array.dtype, tuple(array.shape))
        if found != (self.dtype, self.shape):
            raise AdmissionFault(
                "MDW-612", f"{name!r:.80} is {_short(*found)}, not {_short(self.dtype, self.shape)}"
            )
        try:
            return _elements(array)
        except (
            Exception
        ) as error:  # numpy's reader of headers raises more than it says, and none may end the run
            raise AdmissionFault(
                "MDW-613", f"{name!r:.80} can't be read ({error!s:.200})"
            ) from None


def _elements(array: Array) -> np.ndarray:
    """Return the elements in one row; bfloat16 as its bits."""
    return np.frombuffer(view(array), DTYPES[array.dtype])


def _squares(name: str, dtype: str, new: np.ndarray, old: np.ndarray) -> float:
    """Return the sum of squared differences of one array; raises AdmissionFault at a value that is not finite."""
    if new.dtype.kind not in "fc" and dtype != BFLOAT16:
        return 0.0
    total, wide = 0.0, np.complex128 if new.dtype.kind == "c" else np.float64
    difference = np.empty(min(CHUNK, new.size), wide)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, new.size, CHUNK):
            piece, base = (_numbers(a[start : start + CHUNK], dtype) for a in (new, old))
            step = np.subtract(piece, base, out=difference[: piece.size], dtype=wide)
            square = float(np.vdot(step, step).real)
            if not math.isfinite(square) and not np.isfinite(piece).all():
                raise AdmissionFault("MDW-614", f"{name!r:.80} holds values that are not finite")
            total += square
    return total


def _numbers(piece: np.ndarray, dtype: str) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (piece.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else piece


def _arrays(content: RecordDict) -> ArrayRecord:
    return _only(protocol.records(content, ArrayRecord), protocol.ARRAYS, "array")


def _metrics(content: RecordDict) -> dict[str, Any]:
    return dict(_only(protocol.records(content, MetricRecord), protocol.METRICS, "metric"))


def _only(records: Mapping[str, T], name: str, kind: str) -> T:
    """Flower's strategies skip a whole round for one reply with two records of a kind, so it is refused here."""
    if list(records) != [name]:
        raise AdmissionFault(
            "MDW-610", f"it should hold one {kind} record, {name!r}, and holds {_names(records)}"
        )
    return records[name]


def _examples(values: dict[str, Any], most: int, least: int) -> int:
    count = values.get(protocol.NUM_EXAMPLES)
    if count is None:
        raise AdmissionFault("MDW-616", f"it has no {protocol.NUM_EXAMPLES}")
    if type(count) is not int:
        raise AdmissionFault(
            "MDW-616", f"its {protocol.NUM_EXAMPLES} is no whole number: {count!r:.40}"
        )
    if not least <= count <= most:
        raise AdmissionFault(
            "MDW-616", f"its {protocol.NUM_EXAMPLES} is {count}, not between {least} and {most}"
        )
    return count


def _same_round(values: dict[str, Any], round: int) -> None:
    """A silo need not repeat the round in its metrics; where it does, it must be the one asked for."""
    said = values.get(protocol.ROUND, round)
    if said != round:
        raise AdmissionFault(
            "MDW-617", f"it says it is of round {said!r:.40}, the open one is {round}"
        )


def _odd(found: Collection[str], expected: Collection[str]) -> str:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    parts = [
        f"{what} {_names(names)}"
        for what, names in (("without", missing), ("with", extra))
        if names
    ]
    return ", ".join(parts)


def _names(names: Collection[str]) -> str:
    """At most three names of bounded length: they come from another party and end in logs."""
    few = [f"{name!r:.80}" for name in list(names)[:3]]
    return (", ".join(few) or "none") + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype:.20} {shape[:6]!s:.60}"
