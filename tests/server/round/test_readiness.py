"""A run that can't be trained is known before round 1: here, and at each silo."""

from __future__ import annotations

from functools import partial

import pytest
from flwr.app import ConfigRecord, Error
from torch.utils.data import TensorDataset

from client.tasks import task_named
from conf.compose import compose
from conf.errors import DataError, RoundError
from conf.schema import RunConf
from conf.silos import silos
from server.round.exchange import NODE_UNAVAILABLE, exchange
from server.round.readiness import GRACE_SECONDS, ask_silos, check_here
from tests.server.round.scripted_grid import Clock, TrainingGrid

pytestmark = pytest.mark.usefixtures("task_identity")

NAMES = {1: "north", 2: "south", 3: "west"}
REFUSES = Error(1, "SiloError: MDW-341: north does not allow the task digits.")


def ask(grid: TrainingGrid, run: RunConf | None = None) -> None:
    ask_silos(grid, NAMES, run or RunConf(), ConfigRecord())


@pytest.fixture
def grid() -> TrainingGrid:
    return TrainingGrid(Clock(), NAMES)


def test_each_silo_is_asked_once_and_gets_no_model(grid: TrainingGrid) -> None:
    ask(grid)
    assert grid.asked == [("query.ready", node) for node in NAMES]
    assert all(list(message.content) == ["config"] for message in grid.silos.sent)


def test_one_that_can_not_does_not_stop_the_run_and_is_named(
    grid: TrainingGrid, caplog: pytest.LogCaptureFixture
) -> None:
    grid.wrong["query.ready", 1] = REFUSES
    ask(grid)
    assert "north is not ready: " in caplog.text
    assert "MDW-341" in caplog.text


def test_without_a_quorum_of_them_nothing_is_trained_and_each_is_named(grid: TrainingGrid) -> None:
    grid.wrong["query.ready", 1] = grid.wrong["query.ready", 3] = REFUSES
    with pytest.raises(RoundError, match=r"1 of 3 silos are ready.* needs 2 \(north: .*west: "):
        ask(grid)
    ask(grid, RunConf(quorum=1))


def test_a_silo_that_has_gone_is_not_called_unfit(
    grid: TrainingGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = partial(exchange, clock=grid.clock, sleep=grid.clock.sleep)
    monkeypatch.setattr("server.round.readiness.exchange", timed)
    for node in NAMES:
        grid.wrong["query.ready", node] = Error(NODE_UNAVAILABLE, "gone")
    ask(grid, RunConf(round_timeout=30))


def test_one_that_still_loads_its_data_is_waited_for_no_longer_than_the_grace(
    grid: TrainingGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = partial(exchange, clock=grid.clock, sleep=grid.clock.sleep)
    monkeypatch.setattr("server.round.readiness.exchange", timed)
    grid.after["query.ready", 3] = 10 * GRACE_SECONDS
    ask(grid)
    assert len(grid.forgotten) == 1


def test_a_run_of_the_tree_is_fit_with_real_and_with_made_up_examples() -> None:
    conf = compose(["data.examples=60"])
    task = task_named("digits")
    check_here(conf, task, 3, task.data(silos(conf)[0]).train)
    check_here(conf, task, 3, task.made_up())
    check_here(conf, task, 3, None)


def test_a_task_that_is_not_is_told_with_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = compose(["data.examples=60"])
    task = task_named("digits")
    monkeypatch.setattr(task, "loss", lambda output, batch: output.mean(0))
    made_up = task.made_up()
    assert isinstance(made_up, TensorDataset)
    with pytest.raises(DataError, match="MDW-238: The task digits, on its first examples: `loss`"):
        check_here(conf, task, 3, made_up)
