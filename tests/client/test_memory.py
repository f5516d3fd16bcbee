"""What a silo's half remembers comes back as it was, and a loss of it is noticed."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client import memory
from client.memory import Memory
from conf.errors import WireError
from strategies.scaffold import ScaffoldSilo
from strategies.silo_half import SiloHalf
from strategies.wire import protocol

COUNTED = ConfigRecord({protocol.COUNTED: 3})


def test_what_was_written_is_read() -> None:
    state = RecordDict()
    written = Memory({"c": {"w": torch.tensor([1.0, 2.0])}}, {"bn.weight": torch.tensor([3.0])})
    memory.write(state, written)
    read = memory.read(state)
    assert torch.equal(read.half["c"]["w"], torch.tensor([1.0, 2.0]))
    assert torch.equal(read.kept["bn.weight"], torch.tensor([3.0]))


def test_a_later_round_s_memory_takes_the_place_of_the_earlier_one_and_of_nothing_else() -> None:
    state = RecordDict({"other": ArrayRecord(), "count": MetricRecord({"n": 1})})
    memory.write(state, Memory({"c": {"w": torch.ones(1)}}, {"bn": torch.ones(1)}))
    memory.write(state, Memory({"d": {"w": torch.ones(1)}}))
    assert list(memory.read(state).half) == ["d"] and memory.read(state).kept == {}
    assert "other" in state and "count" in state


def test_nothing_is_written_for_a_half_that_remembers_nothing() -> None:
    state = RecordDict()
    memory.write(state, Memory())
    assert len(state) == 0


def test_a_model_is_divided_by_the_beginnings_of_names() -> None:
    model = {"bn.weight": torch.ones(1), "bn1.weight": torch.ones(1), "fc": torch.ones(1)}
    leaves, stays = memory.divided(model, ["bn", "fc"])
    assert (list(leaves), list(stays)) == (["bn1.weight"], ["bn.weight", "fc"])


def test_a_lost_state_is_refused_where_the_half_can_t_do_without_it() -> None:
    with pytest.raises(WireError, match="MDW-672: The state that this silo left in round 3"):
        memory.check(ScaffoldSilo(), Memory(), COUNTED)


@pytest.mark.parametrize(
    ("half", "held", "config"),
    [
        (SiloHalf(), Memory(), COUNTED),
        (ScaffoldSilo(), Memory({"c": {}}), COUNTED),
        (ScaffoldSilo(), Memory(), ConfigRecord({protocol.COUNTED: 0})),
        (ScaffoldSilo(), Memory(), ConfigRecord()),
    ],
)
def test_a_silo_that_has_lost_nothing_takes_part(
    half: SiloHalf, held: Memory, config: ConfigRecord
) -> None:
    memory.check(half, held, config)
