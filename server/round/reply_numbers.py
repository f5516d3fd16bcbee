"""The numbers that a silo reports beside its arrays: which there may be, of which type, how large.

A name that nobody asked for is refused and not kept: a reply of a hundred thousand metrics would
slow down everybody's rounds. What a metric of the task is worth is made at the server, of sums
(`client.sums`), so what a silo says of it is read for its name alone.

    MDW-616 a count, or an examples ceiling   MDW-617 another round   MDW-623 a metric
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from server.round.array_layout import few
from server.round.judgement import AdmissionFault
from strategies.wire import protocol

MAX_EXAMPLES: Final = 2**29 - 1
"""The largest weight that fixed-point averaging has room for."""
MAX_SIZE: Final = 2**40
"""The largest size of a silo's training set, in tokens or pixels. Beyond 2^29 a product with a
float32 is rounded once, to 53 bits; the reach of an update bounds it further (MDW-621).
"""
OF_EVERY_REPLY: Final = frozenset(
    {
        protocol.NUM_EXAMPLES,
        protocol.LOSS,
        protocol.SECONDS,
        protocol.SAMPLES_PER_SECOND,
        protocol.ROUND,
    }
)
OF_PRIVACY: Final = (
    protocol.EPSILON,
    protocol.RENYI_EPSILON,
    protocol.NOISE,
    protocol.WITHIN_CLIP,
)
OF_TRAINING: Final = OF_EVERY_REPLY | {protocol.SIZE, *protocol.OF_THE_MACHINE, *OF_PRIVACY}
OF_EVALUATION: Final = OF_EVERY_REPLY | {protocol.WITHHELD}
_NOT_NEGATIVE: Final = (*protocol.OF_THE_MACHINE, *OF_PRIVACY)


def check_names(values: Mapping[str, object], allowed: Collection[str]) -> None:
    """Raise AdmissionFault MDW-623 where there are numbers that nobody asked for."""
    others = [name for name in values if name not in allowed]
    if others:
        raise AdmissionFault(
            "MDW-623", f"it reports metrics that were not asked for, {few(others)}"
        )


def check_numbers(values: Mapping[str, object], finite: Collection[str] = ()) -> None:
    """Raise AdmissionFault MDW-623 where a metric is no number, or is outside its range.

    Those named by `finite` must be there, and be finite.
    """
    for name, value in values.items():
        # Not isinstance: True is an int to Python. Flower's record may hold lists too.
        if type(value) not in (int, float):
            raise AdmissionFault("MDW-623", f"its {name!r:.80} is no number, {_short(value)}")
    for name in _NOT_NEGATIVE:
        value = _number(values, name)
        if value is not None and not 0 <= value < math.inf:
            raise AdmissionFault("MDW-623", f"its {name} is {_short(value)}, not 0 or more")
    for name in finite:
        value = _number(values, name)
        if value is None:
            raise AdmissionFault("MDW-623", f"it has no {name}")
        if not math.isfinite(value):
            raise AdmissionFault("MDW-623", f"its {name} is {_short(value)}, which is not finite")


def check_loss(values: Mapping[str, object], most: float | None) -> None:
    """Raise AdmissionFault MDW-623 where a loss is beyond what the run allows; None allows any."""
    loss = _number(values, protocol.LOSS)
    # NaN is within no bound.
    if most is not None and loss is not None and not -most <= loss <= most:
        raise AdmissionFault(
            "MDW-623", f"its loss is {_short(loss)}, and run.admission.loss_at_most={most:g}"
        )


def examples_in(values: Mapping[str, Any], least: int, most: int) -> int:
    """Return the number of examples that a reply is of; raises AdmissionFault MDW-616."""
    return count_in(values, protocol.NUM_EXAMPLES, least, most)


def weight_of(values: Mapping[str, Any], weighting: str, most: int) -> int:
    """Return what an update weighs, of which only what weighs is read.

    `most` is the largest number of examples. Raises AdmissionFault MDW-616.
    """
    if weighting == protocol.EQUAL:
        return 1
    if weighting == protocol.BY_SIZE:
        return count_in(values, protocol.SIZE, 1, MAX_SIZE)
    return examples_in(values, 1, most)


def count_in(values: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return a count between two bounds; raises AdmissionFault MDW-616."""
    count = values.get(name)
    if count is None:
        raise AdmissionFault("MDW-616", f"it has no {name}")
    # Not isinstance: True is an int to Python, and no count.
    if type(count) is not int:
        raise AdmissionFault("MDW-616", f"its {name} is not a whole number: {_short(count)}")
    if not least <= count <= most:
        raise AdmissionFault(
            "MDW-616", f"its {name} is {_short(count)}, not between {least} and {most}"
        )
    return count


def check_round(values: Mapping[str, Any], round: int) -> None:
    """Raise AdmissionFault MDW-617 where a reply says that it is of another round.

    A silo need not repeat the round in its metrics. Where it does, it must be the one asked for.
    """
    said = values.get(protocol.ROUND, round)
    if said != round:
        raise AdmissionFault(
            "MDW-617", f"it says it is of round {_short(said)}, the open one is {round}"
        )


def _number(values: Mapping[str, Any], name: str) -> float | int | None:
    return values.get(name)


def _short(value: object) -> str:
    # A number of thousands of digits can't be printed: Python refuses to.
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.40}"
