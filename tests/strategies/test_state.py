"""What a user's own strategy remembers is kept whole, or refused before the run."""

from __future__ import annotations

import logging
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from conf.errors import CheckpointError
from strategies.external import External, construct_at
from strategies.fedavg import FedAvg
from strategies.state import restore, state_of


class Remembering(FlowerFedAvg):
    def __init__(self) -> None:
        super().__init__()
        self.log = logging.getLogger("mine")
        self.rng = np.random.default_rng(1)
        self.draw = random.Random(1)
        self.kept: Any = None
        self.inner = FlowerFedAvg()


VALUES = [
    None,
    True,
    0.1 + 0.2,
    float("inf"),
    2**70,
    "text",
    b"\x00bytes",
    [1, (2.5, "x"), {"a", "b"}],
    {7: {"nested": [np.arange(3)]}},
    np.float64(0.1),
    np.float32(0.1),
    np.asarray(3, np.int64),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.zeros((0, 4)),
    ArrayRecord({"b": Array(np.ones(2)), "a": Array(np.zeros(1))}),
    MetricRecord({"loss": 0.5, "by_class": [1, 2]}),
    ConfigRecord({"name": "x", "flag": True, "raw": b"\x01"}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_comes_back_with_its_type_and_bits(value: Any) -> None:
    before, after = Remembering(), Remembering()
    before.kept = value
    restore(after, state_of(before))
    assert type(after.kept) is type(value)
    if isinstance(value, np.ndarray):
        assert (after.kept.dtype, after.kept.shape) == (value.dtype, value.shape)
        assert after.kept.tobytes() == value.tobytes()
    elif type(value) is dict:
        assert after.kept[7]["nested"][0].tolist() == [0, 1, 2]
    else:
        assert after.kept == value
    if isinstance(value, ArrayRecord):
        assert list(after.kept) == ["b", "a"]


def test_random_generators_and_nested_strategies_go_on_where_they_were() -> None:
    before, after = Remembering(), Remembering()
    before.rng.normal(size=5), before.draw.random()
    before.inner.min_train_nodes = 77
    restore(after, state_of(before))
    assert after.rng.normal() == before.rng.normal()
    assert after.draw.random() == before.draw.random()
    assert after.inner.min_train_nodes == 77


@pytest.mark.parametrize(
    "value", [threading.Lock(), Path("x"), object(), np.array([object()]), {1: object()}]
)
def test_what_can_not_be_kept_is_refused_by_the_name_of_the_attribute(value: Any) -> None:
    strategy = Remembering()
    strategy.kept = value
    with pytest.raises(CheckpointError, match=r"MDW-550: Remembering\.kept"):
        state_of(strategy)


def test_an_external_strategy_whose_state_can_not_be_kept_is_refused_before_the_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "locked.py").write_text(
        "import threading\n"
        "from flwr.serverapp.strategy import FedAvg\n"
        "class Locked(FedAvg):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.lock = threading.Lock()\n"
    )
    with pytest.raises(CheckpointError, match=r"MDW-550: Locked\.lock"):
        External(construct_at(f"{tmp_path / 'locked.py'}:Locked", {}))


class Own(FlowerFedAvg):
    def __init__(self) -> None:
        super().__init__()
        self.lock, self.seen = threading.Lock(), 0

    def state(self) -> RecordDict:
        return RecordDict({"own": MetricRecord({"seen": self.seen})})

    def restore(self, state: RecordDict) -> None:
        self.seen = int(state["own"]["seen"])


def test_a_strategy_that_keeps_its_own_state_is_left_to_it() -> None:
    before, after = Own(), Own()
    before.seen = 5
    restore(after, state_of(before))
    assert after.seen == 5


@pytest.mark.parametrize(
    "state",
    [
        RecordDict({"other": MetricRecord({"a": 1})}),
        RecordDict(
            {
                "arrays": ArrayRecord(),
                "layout": ConfigRecord({"json": '{"inner": ["plain", 3], "x": 1}'}),
            }
        ),
        RecordDict(
            {
                "arrays": ArrayRecord(),
                "layout": ConfigRecord({"json": '{"kept": ["ndarray", "9"]}'}),
            }
        ),
        RecordDict(
            {
                "arrays": ArrayRecord(),
                "layout": ConfigRecord({"json": '{"kept": ["strategy", {}]}'}),
            }
        ),
        RecordDict(
            {"arrays": ArrayRecord(), "layout": ConfigRecord({"json": '{"kept": ["code", "x"]}'})}
        ),
    ],
)
def test_the_state_of_another_strategy_is_refused(state: RecordDict) -> None:
    with pytest.raises(CheckpointError, match="MDW-551"):
        restore(Remembering(), state)


def test_fedavg_has_no_state_and_no_model_is_stored_twice(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy = FedAvg()
    strategy.configure_train(1, model, ConfigRecord(), make_grid(2))
    assert len(state_of(strategy)) == 0
