"""Evaluation is as patient as training: who was lost is asked again, and a round that can't be judged does not count
where its metrics decide anything."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from flwr.app import Error, Message

from conf.compose import compose
from conf.errors import RoundError
from conf.schema import Conf
from server.round.exchange import NODE_UNAVAILABLE, exchange
from server.round.rounds import Rounds
from server.run.history import read_history
from server.run.result import RoundRecord
from strategies.fedavg import FedAvg
from tests.server.round.scripted_grid import Clock, TrainingGrid
from tests.server.round.sessions import session_in

pytestmark = pytest.mark.usefixtures("task_identity")

RAISED = 2
DECIDES = "run.early_stop.patience=50"


class Lossy(TrainingGrid):
    """Silos that are lost in the middle of an evaluation, and come back after some seconds."""

    def __init__(self, clock: Clock, names: dict[int, str]) -> None:
        super().__init__(clock, names)
        self.lost_until: dict[int, float] = {}

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        key = (message.metadata.message_type, node)
        back = self.lost_until.get(node)
        self.wrong.pop(key, None)
        if key[0] == "evaluate" and back is not None and self.clock.now < back:
            self.wrong[key] = Error(NODE_UNAVAILABLE, "gone")
        return super()._push(message)

    def get_node_ids(self) -> list[int]:
        return [node for node in self.known if self.clock.now >= self.lost_until.get(node, 0.0)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(grid: TrainingGrid, folder: Path, *overrides: str) -> Rounds:
    conf: Conf = compose(["run.rounds=1", "run.reconnect_patience=60", *overrides])
    step = partial(exchange, clock=grid.clock, sleep=grid.clock.sleep)
    rounds = Rounds(session_in(folder, conf), grid, FedAvg(), step=step, clock=grid.clock)
    rounds.run()
    return rounds


def only(folder: Path) -> RoundRecord:
    [record] = read_history(folder)
    return record


@pytest.mark.parametrize("more", [[], [DECIDES]])
def test_silos_that_all_went_while_they_evaluated_are_asked_again(
    clock: Clock, tmp_path: Path, more: list[str]
) -> None:
    grid = Lossy(clock, {1: "a", 2: "b"})
    grid.lost_until = {1: 25.0, 2: 30.0}
    run(grid, tmp_path, *more)
    record = only(tmp_path)
    assert set(record.metrics) == {"a", "b"} and record.failed == {}
    assert (record.evaluated, record.unevaluated) == (["a", "b"], [])
    assert "loss" in record.aggregate and clock.now == pytest.approx(30.0, abs=1.0)


def test_with_the_quorum_nobody_waits_for_a_silo_that_is_lost(clock: Clock, tmp_path: Path) -> None:
    grid = Lossy(clock, {1: "a", 2: "b", 3: "c"})
    grid.lost_until = {3: 1000.0}
    run(grid, tmp_path, DECIDES)
    record = only(tmp_path)
    assert (record.evaluated, record.unevaluated) == (["a", "b"], ["c"])
    assert record.replied == ["a", "b", "c"], "its update counts all the same"
    assert record.failed == {"c": "the silo has gone and did not come back"}


def test_a_round_that_can_not_be_judged_does_not_count_where_that_decides(
    clock: Clock, tmp_path: Path
) -> None:
    grid = Lossy(clock, {1: "a", 2: "b"})
    grid.lost_until = {2: 1000.0}
    with pytest.raises(RoundError, match=r"MDW-411: Round 1 was evaluated by 1 of the 2") as raised:
        run(grid, tmp_path, DECIDES)
    assert "accuracy decides" in str(raised.value)
    assert list(read_history(tmp_path)) == [], "it is resumed before this round"
    assert clock.now == pytest.approx(60.0, abs=1.0), "and not before its patience was over"


def test_where_it_decides_nothing_the_round_counts_and_that_is_said(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Lossy(clock, {1: "a", 2: "b"})
    grid.lost_until = {2: 1000.0}
    with caplog.at_level(logging.WARNING):
        run(grid, tmp_path)
    assert only(tmp_path).unevaluated == ["b"]
    assert "Round 1 was evaluated by 1 of the 2 silos it needs" in caplog.text


def test_a_metric_of_training_decides_without_any_evaluation(clock: Clock, tmp_path: Path) -> None:
    grid = Lossy(clock, {1: "a", 2: "b"})
    grid.lost_until = {1: 1000.0, 2: 1000.0}
    run(grid, tmp_path, DECIDES, "run.early_stop.metric=train_loss")
    assert only(tmp_path).evaluated == []


def test_a_silo_whose_evaluation_raises_is_not_waited_for(clock: Clock, tmp_path: Path) -> None:
    grid = TrainingGrid(clock, {1: "a", 2: "b"})
    grid.wrong[("evaluate", 2)] = Error(RAISED, "MDW-200: no")
    run(grid, tmp_path)
    assert only(tmp_path).unevaluated == ["b"] and clock.now == 0.0
