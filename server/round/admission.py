"""Which replies may become part of the model: each is checked before anything reads its values.

Pure: no clock, no disk, no Flower runtime. One pass over each array, in chunks that stay in the
processor's cache. The first fault found is the reason; the silo is named in it, and the round goes
on without the update. What comes after must not raise for one silo's sake: its limits are checked
here.

    MDW-342 what it says that it runs
    MDW-610 record missing or too many   MDW-614 not finite          MDW-618 a second answer
    MDW-611 names of the arrays          MDW-616 count of examples   MDW-619 not asked in this round
    MDW-612 shape or dtype               MDW-617 another round       MDW-621 too large to average
    MDW-674 arrays of an algorithm's extra record
    MDW-613 size or header of an array   MDW-630 sums of an evaluation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client import sums as task_sums
from client.tasks.base import SumSpec
from strategies.algorithm import Layout
from strategies.average import largest_reach
from strategies.wire import protocol
from strategies.wire.objects import BFLOAT16, DTYPES, view
from strategies.wire.software import Software

MAX_EXAMPLES: Final = 2**29 - 1
"""The largest weight that fixed-point averaging has room for."""
MAX_SIZE: Final = 2**40
"""The largest size of a silo's training set, in tokens or pixels. Beyond 2^29 a product with a
float32 is rounded once, to 53 bits; the reach of an update bounds it further (MDW-621).
"""
CHUNK: Final = 1 << 15
"""Values a step: two buffers of 256 KiB in float64."""

T = TypeVar("T")


@dataclass(frozen=True)
class Admitted:
    """A reply that may be aggregated.

    `norm` is the L2 norm of (update - global model) over all arrays of floats, None for metrics
    alone. `withheld` says of an evaluation that the silo's owner keeps small counts back.
    """

    examples: int
    norm: float | None = None
    withheld: bool = False


@dataclass(frozen=True)
class Rejected:
    """A reply that is left out: a code of docs/errors.md, a sentence that names the silo."""

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

    `sums` is what an evaluation may hold (`client.sums.specs_of`), `metrics` what makes metrics of
    it (the task's own code), `weighting` what an update weighs by (`strategy.weighting`).
    """

    def __init__(
        self,
        sums: Mapping[str, SumSpec],
        metrics: Callable[[task_sums.Sums], object] = dict,
        weighting: str = protocol.BY_EXAMPLES,
    ) -> None:
        self._sums = sums
        self._metrics = metrics
        self._weighting = weighting
        self._round = 0
        self._cohort: frozenset[str] = frozenset()
        self._reach = 0.0
        """How far weight * |value| of one update may go."""
        self._reference: dict[str, _Reference] = {}
        self._extra: dict[str, dict[str, _Layout]] = {}
        self._answered: set[tuple[str, str]] = set()

    def open(
        self,
        round: int,
        reference: ArrayRecord,
        cohort: Collection[str],
        extra: Mapping[str, Layout] | None = None,
    ) -> None:
        """Begin a round.

        `reference` is the global model as it was sent, without what the silos keep, and `extra` the
        layout of each record that an update holds beside the model.
        """
        self._round = round
        self._cohort = frozenset(cohort)
        # An equal share for each silo, not what the others have left: whether an update is admitted
        # must not depend on who came first, nor may one silo take the room of all.
        self._reach = largest_reach(len(cohort))
        self._reference = {name: _Reference.of(array) for name, array in reference.items()}
        self._extra = {
            record: {name: _Layout(dtype, shape) for name, (dtype, shape) in layout.items()}
            for record, layout in (extra or {}).items()
        }
        self._answered.clear()

    def check(self, content: RecordDict, *, silo: str, round: int, phase: str) -> Verdict:
        """Judge a reply of `phase` (train or evaluate); never raises for what is in it.

        A silo's first answer to a phase counts, whatever became of it.
        """
        try:
            self._once(silo, round, phase)
            values = _metrics(content)
            _same_round(values, self._round)
            if phase != "train":
                # A silo that holds nothing out says so: it has no metrics, and did not fail.
                examples = _examples(values, least=0)
                if examples:
                    sums = _array_records(content, [protocol.SUMS])[protocol.SUMS]
                    check_sums(sums, self._sums)
                    self._check_metrics(sums)
                return Admitted(examples, withheld=values.get(protocol.WITHHELD) == 1)
            software_of(content)
            records = _array_records(content, [protocol.ARRAYS, *self._extra])
            examples = _examples(values, least=1)
            weight = _weight(values, self._weighting)
            norm = self._norm_of(records[protocol.ARRAYS], weight)
            for name, layout in self._extra.items():
                self._check_extra(name, records[name], layout, weight)
            return Admitted(examples, norm)
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

    def _check_metrics(self, sums: ArrayRecord) -> None:
        """Sums may be in range and belong to no predictions; the task's metrics then may raise."""
        try:
            self._metrics(protocol.to_state(sums))
        except Exception as error:
            raise AdmissionFault(
                "MDW-630", f"the task's metrics raise {type(error).__name__} for its sums"
            ) from None

    def _norm_of(self, record: ArrayRecord, weight: int) -> float:
        """Check a model, and return the L2 norm of its difference to the one that was sent."""
        # All of the layout before any value: no array is read whose size was not checked.
        if record.keys() != self._reference.keys():
            raise AdmissionFault(
                "MDW-611", f"its arrays are not the model's: {_odd(record, self._reference)}"
            )
        values = {
            name: self._reference[name].values_of(name, array) for name, array in record.items()
        }
        squares = 0.0
        for name, new in values.items():
            old = self._reference[name]
            measured = _measure(name, old.dtype, new, old.values)
            self._check_reach(name, weight * measured.largest)
            squares += measured.squares
        return math.sqrt(squares)

    def _check_extra(
        self, record: str, arrays: ArrayRecord, layouts: Mapping[str, _Layout], weight: int
    ) -> None:
        """Check an algorithm's own record as the model is: all of its layout, then each value."""
        if arrays.keys() != layouts.keys():
            raise AdmissionFault(
                "MDW-674", f"the arrays of {record!r:.80} are wrong: {_odd(arrays, layouts)}"
            )
        values = {name: layouts[name].values_of(name, array) for name, array in arrays.items()}
        for name, new in values.items():
            # Measured against itself: there is nothing that it should be near to.
            measured = _measure(name, layouts[name].dtype, new, new)
            self._check_reach(name, weight * measured.largest)

    def _check_reach(self, name: str, reach: float) -> None:
        if reach > self._reach:
            raise AdmissionFault(
                "MDW-621",
                f"{name!r:.80} is too large for an average: weight times values reach"
                f" {reach:.3g}, and may reach {self._reach:.3g}",
            )


@dataclass(frozen=True)
class _Layout:
    """The type and shape that an array must have."""

    dtype: str
    shape: tuple[int, ...]

    def values_of(self, name: str, array: Array) -> np.ndarray:
        """Return an update's elements without a copy, once declaration, header and size agree."""
        found = (array.dtype, tuple(array.shape))
        if found != (self.dtype, self.shape):
            raise AdmissionFault(
                "MDW-612", f"{name!r:.80} is {_short(*found)}, not {_short(self.dtype, self.shape)}"
            )
        try:
            return _elements(array)
        except Exception as error:
            # numpy's reader of headers raises more than it says, and none of it may end the run.
            raise AdmissionFault(
                "MDW-613", f"{name!r:.80} can't be read ({error!s:.200})"
            ) from None


@dataclass(frozen=True)
class _Reference(_Layout):
    """One array of the global model.

    Its layout, which an update's must have, and what norms are from.
    """

    values: np.ndarray

    @staticmethod
    def of(array: Array) -> _Reference:
        return _Reference(array.dtype, tuple(array.shape), _elements(array))


def check_sums(record: ArrayRecord, specs: Mapping[str, SumSpec]) -> None:
    """Raise AdmissionFault MDW-630 where sums are not as the task declares them.

    Names, types and shapes first, then each value against what so many examples can add up to: a
    silo that lies about its data can shift a metric, but not beyond what its size allows.
    """
    if record.keys() != specs.keys():
        raise AdmissionFault("MDW-630", f"its sums are not the task's: {_odd(record, specs)}")
    values = {}
    for name, spec in specs.items():
        layout = _Layout("float64" if spec.real else "int64", spec.shape)
        values[name] = layout.values_of(name, record[name])
    size = int(values[task_sums.SIZE][0])
    if not 0 < size < task_sums.LARGEST_SIZE:
        raise AdmissionFault("MDW-630", f"its size is {size}")
    for name, spec in specs.items():
        if not np.isfinite(values[name]).all():
            raise AdmissionFault("MDW-630", f"{name!r:.80} holds values that are not finite")
        smallest = values[name].min(initial=0)
        largest = values[name].max(initial=0)
        # A rounding error for each addition of real numbers is no lie.
        room = 1e-9 * size if spec.real else 0.0
        if (
            smallest < min(spec.low * size, 0.0) - room
            or largest > max(spec.high * size, 0.0) + room
        ):
            raise AdmissionFault(
                "MDW-630",
                f"{name!r:.80} goes from {smallest:.6g} to {largest:.6g}, which {size} of"
                f" {spec.low:.6g} to {spec.high:.6g} do not add up to",
            )


def _elements(array: Array) -> np.ndarray:
    """Return the elements in one row; bfloat16 as its bits."""
    return np.frombuffer(view(array), DTYPES[array.dtype])


class _Measure(NamedTuple):
    """Of one array: sum of squared differences to the global model, and largest magnitude."""

    squares: float
    largest: float


def _measure(name: str, dtype: str, new: np.ndarray, old: np.ndarray) -> _Measure:
    """Measure an array of floats (others are zeros).

    Raises AdmissionFault at a value that is not finite.
    """
    if new.dtype.kind not in "fc" and dtype != BFLOAT16:
        return _Measure(0.0, 0.0)
    squares = 0.0
    largest = 0.0
    wide = np.complex128 if new.dtype.kind == "c" else np.float64
    difference = np.empty(min(CHUNK, new.size), wide)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, new.size, CHUNK):
            piece = _numbers(new[start : start + CHUNK], dtype)
            base = _numbers(old[start : start + CHUNK], dtype)
            step = np.subtract(piece, base, out=difference[: piece.size], dtype=wide)
            # Not np.vdot: BLAS would start its threads for each chunk, beside workers that have
            # every
            # core already. A complex number is measured by its parts.
            parts = step.view(np.float64)
            np.multiply(parts, parts, out=parts)
            square = float(parts.sum())
            # The sum alone says nothing: the square of a finite value may be infinite.
            if not math.isfinite(square) and not np.isfinite(piece).all():
                raise AdmissionFault("MDW-614", f"{name!r:.80} holds values that are not finite")
            squares += square
            largest = max(largest, float(np.abs(piece).max()))
    return _Measure(squares, largest)


def _numbers(piece: np.ndarray, dtype: str) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (piece.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else piece


def _array_records(content: RecordDict, names: Collection[str]) -> dict[str, ArrayRecord]:
    """Return the array records of a reply, which must be these and no other."""
    return _exactly(protocol.records(content, ArrayRecord), names, "array")


def software_of(content: RecordDict) -> Software | None:
    """Return what a silo says that it runs, None where it says nothing.

    Raises AdmissionFault MDW-342.
    """
    record = protocol.records(content, ConfigRecord).get(protocol.SOFTWARE)
    if record is None:
        return None
    try:
        return Software.from_record(record)
    except ValueError as error:
        raise AdmissionFault(
            "MDW-342", f"what it says that it runs can't be read: {error}"
        ) from None


def _metrics(content: RecordDict) -> dict[str, Any]:
    found = _exactly(protocol.records(content, MetricRecord), [protocol.METRICS], "metric")
    return dict(found[protocol.METRICS])


def _exactly(records: dict[str, T], names: Collection[str], kind: str) -> dict[str, T]:
    # Flower's strategies skip a whole round for one reply with two records of a kind.
    if set(records) != set(names):
        wanted = f"one {kind} record" if len(names) == 1 else f"{len(names)} {kind} records"
        raise AdmissionFault(
            "MDW-610", f"it should hold {wanted}, {_names(names)}, and holds {_names(records)}"
        )
    return records


def _examples(values: dict[str, Any], least: int) -> int:
    return _count(values, protocol.NUM_EXAMPLES, least, MAX_EXAMPLES)


def _weight(values: dict[str, Any], weighting: str) -> int:
    """Return what an update weighs, of which only what weighs is read."""
    if weighting == protocol.EQUAL:
        return 1
    if weighting == protocol.BY_SIZE:
        return _count(values, protocol.SIZE, 1, MAX_SIZE)
    return _examples(values, least=1)


def _count(values: dict[str, Any], name: str, least: int, most: int) -> int:
    count = values.get(name)
    if count is None:
        raise AdmissionFault("MDW-616", f"it has no {name}")
    # Not isinstance: True is an int to Python, and no count.
    if type(count) is not int:
        raise AdmissionFault("MDW-616", f"its {name} is not a whole number: {count!r:.40}")
    if not least <= count <= most:
        raise AdmissionFault("MDW-616", f"its {name} is {count}, not between {least} and {most}")
    return count


def _same_round(values: dict[str, Any], round: int) -> None:
    """A silo need not repeat the round in its metrics.

    Where it does, it must be the one asked for.
    """
    said = values.get(protocol.ROUND, round)
    if said != round:
        raise AdmissionFault(
            "MDW-617", f"it says it is of round {said!r:.40}, the open one is {round}"
        )


def _odd(found: Collection[str], expected: Collection[str]) -> str:
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    parts = []
    if missing:
        parts.append(f"without {_names(missing)}")
    if extra:
        parts.append(f"with {_names(extra)}")
    return ", ".join(parts)


def _names(names: Collection[str]) -> str:
    """At most three names of bounded length: they come from another party and end in logs."""
    if not names:
        return "none"
    few = ", ".join(f"{name!r:.80}" for name in list(names)[:3])
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} more"


def _short(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype:.20} {shape[:6]!s:.60}"
