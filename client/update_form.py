"""A silo's update in the form in which the run wants it: whole, or as an encoded change.

MDW-686 a change that can't be encoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Array, ArrayRecord
from torch import Tensor

from client.model_parts import model_parts
from client.tasks.base import Task
from conf.errors import WireError
from conf.schema import RunScope
from strategies.compression.codec import Arrays
from strategies.compression.form import Form, form_of
from strategies.wire import protocol
from strategies.wire.half_types import HALVES, Numbers
from strategies.wire.objects import as_declared


def form_at_silo(scope: RunScope, task: Task, keeps: Sequence[str]) -> Form | None:
    """Return the form of the run's updates; None where all of them travel as they are."""
    parts = model_parts(scope.model, scope.task, task)
    return form_of(scope, parts.trained, parts.frozen, keeps)


def in_form(
    form: Form | None,
    leaves: Mapping[str, Tensor],
    sent: ArrayRecord,
    silo: str,
    round: int,
    left_out: Arrays,
) -> tuple[dict[str, ArrayRecord], Arrays]:
    """Return the records of an update, and what the silo remembers of it.

    `leaves` are the arrays of the trained model that leave the silo, on the host, `sent` is the
    model as it arrived, whose types the answer has, and `left_out` what the last round that counted
    left. Raises WireError MDW-686.
    """
    leaves = {name: _as_sent(array, sent.get(name)) for name, array in leaves.items()}
    if form is None:
        return {protocol.ARRAYS: protocol.to_record(leaves)}, {}
    shapes = {name: (_type_of(array), tuple(array.shape)) for name, array in leaves.items()}
    coded = form.coded(shapes)
    whole = {n: a for n, a in leaves.items() if n not in coded and n not in form.frozen}
    records = {protocol.ARRAYS: protocol.to_record(whole)}
    if form.codec is None:
        return records, {}
    new = {name: leaves[name].float().numpy() for name in coded if leaves[name].itemsize < 4}
    new |= {name: leaves[name].numpy() for name in coded if name not in new}
    try:
        encoded = form.encoded(new, Numbers(sent), coded, form.seeds(silo, round), left_out)
    except ValueError as why:
        raise WireError(
            "MDW-686",
            f"The change of round {round} can't be encoded as the run asks: {why}.",
            "Lower the learning rate; where it is a matter of the codec, use compression=bf16.",
        ) from None
    layout = form.codec.layout(coded)
    change = ArrayRecord()
    for name, values in encoded.arrays.items():
        change[name] = as_declared(layout[name][0], values)
    return records | {protocol.CHANGE: change}, encoded.memory


def _as_sent(array: Tensor, sent: Array | None) -> Tensor:
    """Return an array of halves in the type in which the model came: a run that was begun by an older
    release goes on in float32.
    """
    if sent is None or _type_of(array) not in HALVES:
        return array
    return array.float() if sent.dtype == "float32" else array


def _type_of(array: Tensor) -> str:
    return str(array.dtype).removeprefix("torch.")
