"""What a silo's half of an algorithm remembers between rounds, as records of `context.state`.

Four kinds: the half's own arrays, those of the model that never leave the silo, what fp16 has found
of its scale, and what compression left out of the updates so far.
`client.context_state` sees to it that a round starts from what the last round that counted left.

    MDW-672 a state that is not there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from client.flat_copy import to_host
from conf.errors import WireError
from strategies.compression.codec import Arrays
from strategies.silo_half import Records, SiloHalf, belongs
from strategies.wire import protocol
from strategies.wire.objects import array_of

HALF: Final = "half/"
"""Before the name of each record of the half's own."""
KEPT: Final = "kept"
"""The record of the model's arrays that stay."""
SCALING: Final = "scaling"
"""The record of fp16's scale (`client.loss_scale`)."""
LEFT_OUT: Final = "left out"
"""The record of what compression left out (`strategies.compression`)."""


@dataclass
class Memory:
    """What one round leaves for the next."""

    half: Records = field(default_factory=dict)
    """What the algorithm's half returned (`SiloHalf.end`)."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """The arrays of the model that the half keeps (`SiloHalf.keeps`)."""
    scaling: Mapping[str, Tensor] = field(default_factory=dict)
    """fp16's scale (`client.loss_scale`), whatever the algorithm; empty in other precisions."""
    left_out: Arrays = field(default_factory=dict)
    """What a codec remembers of the updates that counted. A silo that has lost it goes on without:
    what was left out is then never sent.
    """


def read(state: RecordDict) -> Memory:
    """Return what the state holds, empty at first."""
    records = protocol.records(state, ArrayRecord)
    half = {
        name.removeprefix(HALF): protocol.to_state(record)
        for name, record in records.items()
        if name.startswith(HALF)
    }
    kept = protocol.to_state(records[KEPT]) if KEPT in records else {}
    scaling = protocol.to_state(records[SCALING]) if SCALING in records else {}
    left_out = protocol.to_numpy(records[LEFT_OUT]) if LEFT_OUT in records else {}
    return Memory(half, kept, scaling, left_out)


def write(state: RecordDict, memory: Memory) -> None:
    """Put what a round leaves into the state, in place of what was there."""
    for name in list(protocol.records(state, ArrayRecord)):
        if name in (KEPT, SCALING, LEFT_OUT) or name.startswith(HALF):
            del state[name]
    for name, arrays in memory.half.items():
        state[HALF + name] = protocol.to_record(to_host(arrays))
    if memory.kept:
        state[KEPT] = protocol.to_record(to_host(memory.kept))
    if memory.scaling:
        state[SCALING] = protocol.to_record(memory.scaling)
    if memory.left_out:
        record = state[LEFT_OUT] = ArrayRecord()
        for name, values in memory.left_out.items():
            record[name] = array_of(values)


def check(half: SiloHalf, memory: Memory, config: ConfigRecord) -> None:
    """Raise WireError MDW-672 where a silo that has taken part has lost what it must remember."""
    counted = config.get(protocol.COUNTED, 0)
    # A personal layer that began anew would be trained again from the first weights, unnoticed.
    lost = (half.remembers and not memory.half) or (half.keeps and not memory.kept)
    if lost and counted != 0:
        raise WireError(
            "MDW-672",
            f"The state that this silo left in round {counted!r:.20} is not there, and"
            f" {type(half).__name__} can't go on without it.",
            "Restore the silo's state, or start a new run from this one's model (model.init).",
        )


def divided(
    model: Mapping[str, Tensor], keeps: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the arrays of a model that leave the silo, and those that stay."""
    stays = {name: array for name, array in model.items() if belongs(name, keeps)}
    leaves = {name: array for name, array in model.items() if name not in stays}
    return leaves, stays
