"""Each silo alone, in a run that was launched: asked once at the end, and it fails nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error

from conf.compose import compose
from conf.schema import Conf
from server.round.rounds import Rounds
from server.run.result import Baseline
from server.scoring.evaluation import first_weights
from strategies.wire import protocol
from tests.server.round.scripted_grid import Clock, TrainingGrid
from tests.server.round.test_end_of_run import answer, rounds_over

pytestmark = pytest.mark.usefixtures("task_identity")

NAMES = {1: "a", 2: "b", 3: "c"}


@pytest.fixture(scope="module")
def composed() -> Conf:
    return compose(["run.rounds=2", "run.reconnect_patience=0", "run.baseline=silos"])


@pytest.fixture
def conf(composed: Conf) -> Conf:
    return copy.deepcopy(composed)


@pytest.fixture
def grid() -> TrainingGrid:
    made = TrainingGrid(Clock(), NAMES)
    for node in NAMES:
        made.wrong[protocol.ALONE, node] = answer(10 * node, 0.5, right=5 * node)
    return made


def done(grid: TrainingGrid, conf: Conf, folder: Path) -> tuple[Rounds, Baseline | None]:
    rounds = rounds_over(grid, conf, folder)
    rounds.run()
    return rounds, rounds.alone(rounds.test())


def test_each_has_the_figures_of_its_own_model_on_its_own_test(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    _, found = done(grid, conf, tmp_path)

    assert found is not None and found.centralised is None
    assert {name: scores.by_silo for name, scores in found.silo_alone.items()} == {
        name: {
            name: {"loss": 0.5, "accuracy": 0.5, "f1": found.silo_alone[name].by_silo[name]["f1"]}
        }
        for name in NAMES.values()
    }
    assert found.federated.by_silo.keys() == set(NAMES.values())
    assert protocol.SECONDS not in found.federated.by_silo["a"]


def test_each_is_asked_once_with_the_first_weights_and_the_rounds_that_were_done(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    done(grid, conf, tmp_path)

    asked = [one for one in grid.silos.sent if one.metadata.message_type == protocol.ALONE]
    assert [one.metadata.dst_node_id for one in asked] == [1, 2, 3]
    wanted = first_weights(conf)
    for one in asked:
        sent = protocol.records(one.content, ArrayRecord)[protocol.ARRAYS]
        assert {name: array.data for name, array in sent.items()} == {
            name: array.data for name, array in wanted.items()
        }
        assert protocol.records(one.content, ConfigRecord)[protocol.CONFIG][protocol.ROUND] == 2


def test_a_silo_that_does_not_take_part_or_lies_is_left_out(
    grid: TrainingGrid, conf: Conf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid.wrong[protocol.ALONE, 1] = Error(1, "SiloError: MDW-341: a does not allow run.baseline.")
    grid.wrong[protocol.ALONE, 2] = answer(10, 0.5, right=11)

    _, found = done(grid, conf, tmp_path)

    assert found is not None and list(found.silo_alone) == ["c"]
    assert "MDW-341" in caplog.text


def test_without_an_answer_there_is_no_comparison(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    for node in NAMES:
        grid.wrong[protocol.ALONE, node] = Error(1, "SiloError: MDW-341")
    assert done(grid, conf, tmp_path)[1] is None


@pytest.mark.parametrize("wanted", ["none", "pooled"])
def test_nobody_is_asked_who_was_not_meant(
    grid: TrainingGrid, conf: Conf, tmp_path: Path, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    conf.run.baseline = wanted
    assert done(grid, conf, tmp_path)[1] is None
    assert all(one.metadata.message_type != protocol.ALONE for one in grid.silos.sent)
    assert ("nobody can pool" in caplog.text) == (wanted == "pooled")
