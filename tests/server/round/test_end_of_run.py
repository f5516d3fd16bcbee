"""The end of a run: its model is evaluated once, at all silos, on examples that chose nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.schema import Conf
from server.round.exchange import exchange
from server.round.rounds import Rounds
from server.run.checkpoint import Checkpoints
from server.run.history import read_history
from server.run.result import FinalTest, Metrics
from strategies.fedavg import FedAvg
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest
from tests.server.round.scripted_grid import Clock, TrainingGrid, sums_of
from tests.server.round.sessions import session_in

pytestmark = pytest.mark.usefixtures("task_identity")

TEST = protocol.TEST


class Splits(TrainingGrid):
    """Silos that note which split each evaluation is of, and of which model and round."""

    def __init__(self, clock: Clock, names: dict[int, str]) -> None:
        super().__init__(clock, names)
        self.evaluated: list[tuple[int, object, object, float]] = []
        self.tested: dict[int, RecordDict | Error] = {}

    def _push(self, message: Any) -> str:
        node = message.metadata.dst_node_id
        if message.metadata.message_type != "evaluate":
            return super()._push(message)
        config = protocol.records(message.content, ConfigRecord)[protocol.CONFIG]
        split = config[protocol.SPLIT]
        model = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
        first = float(model["w"].numpy()[0])
        self.evaluated.append((node, split, config[protocol.ROUND], first))
        self.wrong.pop(("evaluate", node), None)
        if split == TEST and node in self.tested:
            self.wrong["evaluate", node] = self.tested[node]
        return super()._push(message)


def answer(examples: int, loss: float, right: int = 0) -> RecordDict:
    numbers: dict[str, float | int] = {protocol.NUM_EXAMPLES: examples, protocol.LOSS: loss}
    content = RecordDict({protocol.METRICS: MetricRecord({**numbers})})
    if examples:
        content[protocol.SUMS] = sums_of(examples, loss, right)
    return content


@pytest.fixture(scope="module")
def composed() -> Conf:
    return compose(["run.rounds=2", "run.reconnect_patience=0"])


@pytest.fixture
def conf(composed: Conf) -> Conf:
    return copy.deepcopy(composed)


@pytest.fixture
def grid() -> Splits:
    return Splits(Clock(), {1: "a", 2: "b", 3: "c"})


def rounds_over(grid: Splits, conf: Conf, folder: Path, **more: Any) -> Rounds:
    step = partial(exchange, clock=grid.clock, sleep=grid.clock.sleep)
    return Rounds(session_in(folder, conf), grid, FedAvg(), step=step, clock=grid.clock, **more)


def ended(rounds: Rounds) -> FinalTest:
    rounds.run()
    return rounds.test()


def test_rounds_evaluate_on_validation_and_the_end_once_on_the_test(
    grid: Splits, conf: Conf, tmp_path: Path
) -> None:
    test = ended(rounds_over(grid, conf, tmp_path))
    asked = [(split, number, model) for _, split, number, model in grid.evaluated]
    validation = protocol.VALIDATION
    assert asked == [(validation, 1, 2.0)] * 3 + [(validation, 2, 4.0)] * 3 + [(TEST, 2, 4.0)] * 3
    assert (test.round, test.asked, sorted(test.metrics)) == (2, ["a", "b", "c"], ["a", "b", "c"])


def test_the_test_is_at_all_silos_whatever_the_cohort(
    grid: Splits, conf: Conf, tmp_path: Path
) -> None:
    conf.run.cohort = 1
    ended(rounds_over(grid, conf, tmp_path))
    assert [node for node, split, _, _ in grid.evaluated if split == TEST] == [1, 2, 3]
    assert sum(split == protocol.VALIDATION for _, split, _, _ in grid.evaluated) == 2


def test_it_is_of_the_union_from_sums_and_who_failed_is_named(
    grid: Splits, conf: Conf, tmp_path: Path
) -> None:
    grid.tested = {1: answer(1, 3.0, right=0), 2: answer(9, 1.0, right=9), 3: Error(2, "it broke")}
    test = ended(rounds_over(grid, conf, tmp_path))
    assert test.aggregate["accuracy"] == 0.9
    assert test.aggregate["loss"] == pytest.approx(1.2)
    assert {silo: m["accuracy"] for silo, m in test.metrics.items()} == {"a": 0.0, "b": 1.0}
    assert list(test.failed) == ["c"]
    assert "it broke" in test.failed["c"]


def test_a_liar_s_test_is_refused_as_in_a_round(grid: Splits, conf: Conf, tmp_path: Path) -> None:
    lie = answer(4, 1.0)
    lie[protocol.SUMS] = sums_of(4, 1.0, right=5)
    grid.tested = {1: lie, 2: answer(4, 1.0, right=4)}
    test = ended(rounds_over(grid, conf, tmp_path))
    assert list(test.failed) == ["a"]
    assert "confusion" in test.failed["a"]
    assert sorted(test.metrics) == ["b", "c"]


def test_without_test_examples_it_says_none(grid: Splits, conf: Conf, tmp_path: Path) -> None:
    grid.tested = {node: answer(0, 0.0) for node in (1, 2, 3)}
    test = ended(rounds_over(grid, conf, tmp_path))
    assert (test.failed, test.metrics, test.aggregate, test.final) == ({}, {}, {}, {})


def test_a_central_test_set_is_beside_it_under_its_own_names(
    grid: Splits, conf: Conf, tmp_path: Path
) -> None:
    def score(arrays: ArrayRecord) -> Callable[[], Metrics]:
        return lambda: {"accuracy": float(arrays["w"].numpy()[0]) / 10}

    test = ended(rounds_over(grid, conf, tmp_path, score=score))
    assert test.central == {"accuracy": 0.4}
    assert test.final == test.aggregate | {"central_accuracy": 0.4}


def test_it_changes_nothing_of_the_run_s_state(grid: Splits, conf: Conf, tmp_path: Path) -> None:
    rounds = rounds_over(grid, conf, tmp_path)
    rounds.run()
    state = rounds.session.state
    before = (state.round, arrays_digest(state.arrays), state.history, state.anchor)
    rounds.test()
    assert (state.round, arrays_digest(state.arrays), state.history, state.anchor) == before


def losses(grid: Splits, by_round: dict[int, float]) -> None:
    """Let the silos' validation loss be that of the round, which node 1's weight tells."""
    real = grid._trained

    def trained(message: Any, key: tuple[str, int]) -> RecordDict:
        content = real(message, key)
        if key[0] == "evaluate":
            config = protocol.records(message.content, ConfigRecord)[protocol.CONFIG]
            loss = by_round[int(config[protocol.ROUND])]  # type: ignore[arg-type]
            content[protocol.SUMS] = sums_of(10, loss)
        return content

    grid._trained = trained  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("by_round", "kept"),
    [
        ({1: 3.0, 2: 1.0, 3: 2.0}, 2),
        ({1: 1.0, 2: 1.0, 3: 1.0}, 1),
        ({1: 3.0, 2: 2.0, 3: 1.0}, 3),
    ],
)
def test_the_best_round_by_validation_is_kept_and_tested(
    by_round: dict[int, float], kept: int, grid: Splits, conf: Conf, tmp_path: Path
) -> None:
    conf.run.rounds = 3
    conf.run.keep = "best"
    conf.run.early_stop.metric = "loss"
    losses(grid, by_round)
    rounds = rounds_over(grid, conf, tmp_path)
    test = ended(rounds)
    model = {model for _, split, _, model in grid.evaluated if split == TEST}
    assert (test.round, model) == (kept, {2.0 * kept})
    # The training itself goes on from the last model.
    assert float(rounds.session.state.arrays["w"].numpy()[0]) == 6.0


def test_the_best_model_is_in_the_checkpoint(grid: Splits, conf: Conf, tmp_path: Path) -> None:
    conf.run.rounds = 3
    conf.run.keep = "best"
    conf.run.early_stop.metric = "loss"
    losses(grid, {1: 2.0, 2: 1.0, 3: 3.0})
    rounds_over(grid, conf, tmp_path).run()
    stored = Checkpoints(FolderStore(tmp_path)).load()
    assert stored is not None
    assert stored.best is not None
    assert (stored.round, stored.best.round, stored.best.value) == (3, 2, 1.0)
    assert stored.best.arrays["w"].numpy()[0] == 4.0
    assert stored.arrays["w"].numpy()[0] == 6.0


def test_a_round_s_line_holds_validation_alone(grid: Splits, conf: Conf, tmp_path: Path) -> None:
    grid.tested = {node: answer(9, 1.0, right=9) for node in (1, 2, 3)}
    ended(rounds_over(grid, conf, tmp_path))
    assert [record.aggregate["accuracy"] for record in read_history(tmp_path)] == [0.0, 0.0]
