"""A silo's update in the form in which the run wants it: whole, or as an encoded change.

MDW-686 a change that can't be encoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord
from torch import Tensor

from client.model_parts import model_parts
from client.tasks.base import Task
from conf.errors import WireError
from conf.schema import RunScope
from strategies.compression.codec import Arrays
from strategies.compression.form import Form, form_of
from strategies.wire import protocol
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
    model as it arrived, and `left_out` what the last round that counted left. Raises WireError
    MDW-686.
    """
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
    old = protocol.to_numpy(sent)
    try:
        encoded = form.encoded(new, old, coded, form.seeds(silo, round), left_out)
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


def _type_of(array: Tensor) -> str:
    """Return the type in which an array travels: half types as float32 (`protocol.to_record`)."""
    name = str(array.dtype).removeprefix("torch.")
    return "float32" if name in ("bfloat16", "float16") else name
