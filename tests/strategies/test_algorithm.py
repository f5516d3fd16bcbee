"""What an algorithm of one's own may rely on: its records beside the model, its hooks, its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from conf.errors import MeadowError, WireError
from strategies.algorithm import Algorithm, Arrays
from strategies.average import WeightedMean
from strategies.state import state_of
from strategies.streaming import Replies
from strategies.wire import protocol
from tests.strategies.conftest import FakeGrid


class Beside(Algorithm):
    """Sends ones beside the model, gets one record back and takes half of each step."""

    extra = ("u",)

    def beside(self, arrays: ArrayRecord) -> Mapping[str, Arrays]:
        layout = self.layout("u", arrays)
        return {"u": {name: np.ones(shape, dtype) for name, (dtype, shape) in layout.items()}}

    def after(
        self, before: Arrays, mean: Arrays, extra: Mapping[str, Arrays], replies: int
    ) -> Arrays:
        self.seen = (dict(extra["u"]), replies)
        halfway = dict(mean)
        halfway["weight"] = (before["weight"] + mean["weight"]) / 2
        return halfway


def answered(
    strategy: Algorithm, model: ArrayRecord, grid: FakeGrid, **extra: float
) -> list[Message]:
    """The replies of all nodes; `extra` gives each named record the values node index x number."""
    replies = []
    for index, message in enumerate(strategy.configure_train(1, model, ConfigRecord(), grid)):
        reply = grid.reply(message)
        for name, value in extra.items():
            layout = strategy.layout(name, model)
            reply.content[name] = ArrayRecord(
                {n: Array(np.full(s, index * value, d)) for n, (d, s) in layout.items()}
            )
        replies.append(reply)
    return replies


def test_what_is_sent_beside_the_model_has_the_layout_of_its_floats(
    make_grid: Any, model: ArrayRecord
) -> None:
    (message,) = Beside().configure_train(1, model, ConfigRecord(), make_grid(1))
    sent = protocol.records(message.content, ArrayRecord)
    assert list(sent) == ["arrays", "u"]
    assert {n: a.shape for n, a in sent["u"].items()} == {
        "weight": (4, 3),
        "bn.running_var": (3,),
        "bias": (3,),
    }


def test_once_the_parameters_are_known_buffers_are_left_out(model: ArrayRecord) -> None:
    strategy = Beside()
    strategy.open(5, ["weight", "bias"])
    assert list(strategy.layout("u", model)) == ["weight", "bias"] and strategy.silos == 5


def test_each_extra_record_has_a_mean_of_its_own_weighted_as_the_model(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy, grid = Beside(), make_grid(3)
    result, _ = strategy.aggregate_train(1, answered(strategy, model, grid, u=1.0))
    means, replies = strategy.seen
    # 10, 11 and 12 examples; the nodes in the order of their ids, which is the reverse.
    expected = (0 * 12 + 1 * 11 + 2 * 10) / 33
    assert replies == 3 and means["bias"] == pytest.approx([expected] * 3)
    assert result is not None and list(result) == list(model)


def test_the_order_of_arrival_does_not_change_the_extra_means(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy, grid = Beside(), make_grid(6)
    replies = answered(strategy, model, grid, u=0.1)
    strategy.aggregate_train(1, replies)
    forward = strategy.seen[0]
    strategy.aggregate_train(1, reversed(replies))
    assert all(np.array_equal(forward[n], strategy.seen[0][n]) for n in forward)


def test_the_hook_moves_the_model(make_grid: Any, model: ArrayRecord) -> None:
    strategy, grid, plain = Beside(), make_grid(2), Algorithm()
    moved, _ = strategy.aggregate_train(1, answered(strategy, model, grid, u=1.0))
    mean, _ = plain.aggregate_train(1, answered(plain, model, grid))
    assert moved is not None and mean is not None
    start = model["weight"].numpy()
    assert np.allclose(moved["weight"].numpy() - start, (mean["weight"].numpy() - start) / 2)


def test_a_reply_without_the_extra_record_is_a_clear_error(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy = Beside()
    with pytest.raises(WireError, match="MDW-665"):
        strategy.aggregate_train(1, answered(strategy, model, make_grid(2)))


def test_what_the_silos_keep_is_missing_in_their_replies_and_stays_at_the_server(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy, grid = Algorithm(), make_grid(2)
    strategy.keeps = ["bn"]
    assert list(strategy.travelling(model)) == ["weight", "bias"]
    replies = answered(strategy, model, grid)
    for reply in replies:
        for name in ("bn.running_var", "bn.num_batches_tracked"):
            del reply.content["arrays"][name]
    result, _ = strategy.aggregate_train(1, replies)
    assert result is not None and list(result) == list(model)
    assert result["bn.running_var"].data == model["bn.running_var"].data


def test_nothing_is_sent_of_what_the_silos_keep(model: ArrayRecord) -> None:
    strategy = Beside()
    strategy.keeps = ["bias"]
    assert list(strategy.layout("u", model)) == ["weight", "bn.running_var"]
    strategy.open(5, ["weight", "bias"])
    assert list(strategy.layout("u", model)) == list(strategy.parameters or ()) == ["weight"]


def test_an_array_that_should_have_stayed_is_a_clear_error(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy = Algorithm()
    strategy.keeps = ["bn"]
    with pytest.raises(WireError, match=r"MDW-660.*'bn\.num_batches_tracked'"):
        strategy.aggregate_train(1, answered(strategy, model, make_grid(1)))


def test_its_state_is_what_it_remembers_and_not_the_model(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy = Beside()
    strategy.open(3, ["weight"])
    strategy.configure_train(1, model, ConfigRecord(), make_grid(1))
    assert len(state_of(strategy)) == 0
    strategy.momentum = 0.5  # type: ignore[attr-defined]  # whatever an algorithm adds
    assert len(state_of(strategy)) > 0


class Named(Replies):
    """Replies in some order of arrival, with their silos' names."""

    def __init__(self, replies: Sequence[Message]) -> None:
        self._left = list(replies)
        self._silo = ""

    def __next__(self) -> Message:
        if not self._left:
            raise StopIteration
        reply = self._left.pop(0)
        self._silo = f"silo-{reply.metadata.src_node_id}"
        return reply

    def silo(self) -> str:
        return self._silo

    def refuse(self, why: MeadowError) -> None:
        raise why


@pytest.mark.parametrize("hold_bytes", [0, 1 << 20], ids=["as they arrive", "held"])
def test_whichever_way_it_is_added_up_the_order_of_arrival_changes_no_bit(
    make_grid: Any, model: ArrayRecord, hold_bytes: int
) -> None:
    strategy, grid = Beside(), make_grid(9)
    strategy.cohort = 9
    strategy.hold_bytes = hold_bytes
    replies = answered(strategy, model, grid, u=0.1)
    found = []
    for order in (replies, replies[::-1], replies[4:] + replies[:4]):
        mean, _ = strategy.aggregate_train(1, Named(order))
        assert mean is not None
        found.append(
            [array.data for array in mean.values()]
            + [array.tobytes() for array in strategy.seen[0].values()]
        )
    assert found[0] == found[1] == found[2]


def test_updates_are_held_by_what_the_cohort_may_send_and_not_by_what_came(
    model: ArrayRecord, make_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[bool] = []

    class Noted(WeightedMean):
        def __init__(self, before: Arrays | None = None, *, held: bool = False) -> None:
            super().__init__(before, held=held)
            noted.append(held)

    monkeypatch.setattr("strategies.algorithm.WeightedMean", Noted)
    # 18 floats and a counter of 8 bytes in the model, 18 floats beside it: 152 bytes an update.
    for cohort, arrived, most, expected in (
        (9, 2, 9 * 152, True),
        (9, 2, 9 * 152 - 1, False),
        (9, 9, 9 * 152, True),
        (None, 2, 9 * 152, False),
    ):
        strategy = Beside()
        strategy.cohort = cohort
        strategy.hold_bytes = most
        replies = answered(strategy, model, make_grid(arrived), u=1.0)
        noted.clear()
        strategy.aggregate_train(1, Named(replies))
        assert noted == [expected, expected], (cohort, arrived, most)
        noted.clear()
        # Without names there is no order to add them up in.
        strategy.aggregate_train(1, replies)
        assert noted == [False, False]


def test_no_checkpoint_holds_how_much_may_be_held() -> None:
    strategy = Algorithm()
    strategy.cohort = 3
    strategy.hold_bytes = 5
    assert not state_of(strategy)
