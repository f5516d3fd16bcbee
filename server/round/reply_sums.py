"""The sums of an evaluation against what the task declares of them.

MDW-630 sums that an evaluation can't have given
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord

from client import sums as task_sums
from client.privacy.noised_sums import NoisedSums
from client.sums import Sums
from client.tasks.base import SumSpec
from server.round.array_layout import ArrayLayout, difference_of
from server.round.judgement import AdmissionFault
from server.round.reply_numbers import MAX_SIZE


def check_sums(record: ArrayRecord, specs: Mapping[str, SumSpec], most: int = MAX_SIZE) -> None:
    """Raise AdmissionFault MDW-630 where sums are not as the task declares them.

    Names, types and shapes first, then each value against what so many examples can add up to: a
    silo that lies about its data can shift a metric, but not beyond what its size allows, and its
    size is at most `most`.
    """
    if record.keys() != specs.keys():
        raise AdmissionFault(
            "MDW-630", f"its sums are not the task's: {difference_of(record, specs)}"
        )
    values = {}
    for name, spec in specs.items():
        layout = ArrayLayout("float64" if spec.real else "int64", spec.shape)
        values[name] = layout.values_of(name, record[name])
    size = int(values[task_sums.SIZE][0])
    if not 0 < size <= most:
        raise AdmissionFault("MDW-630", f"its size is {size}, not between 1 and {most}")
    for name, spec in specs.items():
        _check_range(name, values[name], spec, size)


def check_noised(record: ArrayRecord, form: NoisedSums, noise: float, most: int) -> Sums:
    """Return sums that have noise, by name.

    Raises AdmissionFault MDW-630 where they are not those that the task leaves, or beyond what `most`
    examples and noise of that multiplier can come to.
    """
    shapes = {part.name: (part.elements,) for part in form.parts}
    if record.keys() != shapes.keys():
        raise AdmissionFault(
            "MDW-630", f"its sums are not the task's: {difference_of(record, shapes)}"
        )
    found = {}
    for part, bound in form.largest(most, noise):
        values = ArrayLayout("float64", shapes[part.name]).values_of(part.name, record[part.name])
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) > bound:
            raise AdmissionFault(
                "MDW-630",
                f"{part.name!r:.80} holds values that {most} examples and noise do not come to",
            )
        found[part.name] = torch.from_numpy(values.copy())
    return found


def _check_range(name: str, values: np.ndarray, spec: SumSpec, size: int) -> None:
    if not np.isfinite(values).all():
        raise AdmissionFault("MDW-630", f"{name!r:.80} holds values that are not finite")
    smallest = values.min(initial=0)
    largest = values.max(initial=0)
    # A rounding error for each addition of real numbers is no lie.
    room = 1e-9 * size if spec.real else 0.0
    too_small = smallest < min(spec.low * size, 0.0) - room
    too_large = largest > max(spec.high * size, 0.0) + room
    if too_small or too_large:
        raise AdmissionFault(
            "MDW-630",
            f"{name!r:.80} goes from {smallest:.6g} to {largest:.6g}, which {size} of"
            f" {spec.low:.6g} to {spec.high:.6g} do not add up to",
        )
