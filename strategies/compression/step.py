"""A model on its way to the silos as what it differs by from the one before.

When a round closes, the next model is *made* of the one before it and an encoded change: what the
silos can decode is the model, for the server too, and nothing has to be remembered of what was
rounded. So checkpoints, scores, admission and digests are of that model, in whatever mode a run is,
and a silo that has the one before needs the change alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from conf.schema import BlockwiseConf, CompressionConf
from strategies.compression.blockwise import Int4, Int8
from strategies.compression.codec import Arrays, Codec, Row, Seeds, Shapes, parts, size_of
from strategies.compression.half import BFloat16
from strategies.wire.half_types import FLOATS, numbers, rounded
from strategies.wire.objects import as_declared, elements, view

FULL = "full"


@dataclass(frozen=True)
class Step:
    """From one model to the next: what of it is encoded, and what is as it is."""

    coded: tuple[str, ...]
    """Names, in order."""
    change: ArrayRecord
    whole: ArrayRecord
    """Arrays that changed and are not encoded. All others are those of the model before."""


def down_codec(conf: CompressionConf) -> Codec | None:
    """Return the codec of models on their way to the silos; None where they travel whole."""
    block = conf.block if isinstance(conf, BlockwiseConf) else BlockwiseConf().block
    match conf.down:
        case "bf16":
            return BFloat16()
        case "int8":
            return Int8(block)
        case "int4":
            return Int4(block)
    return None


def stepped(
    codec: Codec, before: ArrayRecord, after: ArrayRecord, parameters: Collection[str], seed: int
) -> tuple[ArrayRecord, Step]:
    """Return the model that takes the place of `after`, and the step to it.

    A model that has other arrays than the one before, or values that no change leads to, stays as
    it is, and all of it is in the step.
    """
    whole = ArrayRecord()
    coded: list[str] = []
    for name, array in after.items():
        old = before.get(name)
        if old is not None and _is_as(array, old) and view(array) == view(old):
            continue
        if old is not None and name in parameters and _is_as(array, old) and _is_float(array):
            coded.append(name)
        else:
            whole[name] = array
    coded.sort()
    shapes: Shapes = {name: tuple(after[name].shape) for name in coded}
    row = _change(before, after, shapes)
    if before.keys() != after.keys() or not np.isfinite(row).all():
        return after, Step((), ArrayRecord(), after)
    encoded = codec.encode(row, shapes, Seeds(seed, seed), {}).arrays
    change = ArrayRecord()
    for name, (dtype, _) in codec.layout(shapes).items():
        change[name] = as_declared(dtype, encoded[name])
    step = Step(tuple(coded), change, whole)
    return applied(codec, before, step), step


def applied(codec: Codec, before: ArrayRecord, step: Step) -> ArrayRecord:
    """Return the model after a step; raises ValueError for one that is not of this model."""
    found = _decoded(codec, before, step)
    for name, array in step.whole.items():
        if name not in before or not _is_as(array, before[name]) or name in found:
            raise ValueError(f"{name[:80]!r} is not an array of the model")
        found[name] = array
    after = ArrayRecord()
    for name, old in before.items():
        after[name] = found.get(name, old)
    return after


def _decoded(codec: Codec, before: ArrayRecord, step: Step) -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in step.coded:
        if name not in before or name in shapes or not _is_float(before[name]):
            raise ValueError(f"{name[:80]!r} is no array of the model to be decoded")
        shapes[name] = tuple(before[name].shape)
    layout = codec.layout(shapes)
    told = {name: (array.dtype, tuple(array.shape)) for name, array in step.change.items()}
    if told != dict(layout):
        raise ValueError("the change has other arrays than the codec makes")
    arrays: Arrays = {name: elements(array) for name, array in step.change.items()}
    found: dict[str, Array] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, change in codec.decode(arrays, shapes, 0):
            old = numbers(before[name]).reshape(-1)
            new = rounded(old + change, before[name].dtype)
            found[name] = as_declared(before[name].dtype, new.reshape(shapes[name]))
    return found


def _change(before: Mapping[str, Array], after: Mapping[str, Array], shapes: Shapes) -> Row:
    row = np.empty(size_of(shapes), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, at in parts(shapes):
            new = numbers(after[name]).reshape(-1)
            old = numbers(before[name]).reshape(-1)
            np.subtract(new, old, out=row[at], casting="same_kind")
    return row


def _is_as(array: Array, other: Array) -> bool:
    return array.dtype == other.dtype and tuple(array.shape) == tuple(other.shape)


def _is_float(array: Array) -> bool:
    return array.dtype in FLOATS
