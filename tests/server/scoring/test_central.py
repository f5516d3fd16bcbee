"""The central test set has the same metrics whoever evaluates it, and in however many parts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from client import loop, sums
from client.tasks import task_of
from client.tasks.base import Task
from conf.compose import compose
from conf.errors import DataError
from conf.schema import Conf
from server.engines.pipe import Call
from server.scoring import central
from server.scoring.central import CentralScore, Part, central_score, part_sums
from server.scoring.evaluation import Scorer, first_weights


class Here:
    """Workers that are this process: what they would be called with, and whether they were."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.parts: list[Part] = []

    def call(self, call: Call) -> Future[Any]:
        future: Future[Any] = Future()
        assert call.function == "server.scoring.central:part_sums"
        assert isinstance(call.argument, Part)
        self.parts.append(call.argument)
        try:
            future.set_result(part_sums(call.model, call.argument))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def conf() -> Conf:
    return compose(["trainer.eval_batch_size=16"])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central, "_loaded", [])
    # The threads of torch are this whole process's.
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


@pytest.fixture
def test_set(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> TensorDataset:
    """100 examples: six batches of 16, and one of 4."""
    drawn = torch.Generator().manual_seed(3)
    images = torch.rand(100, 1, 8, 8, generator=drawn)
    examples = TensorDataset(images, torch.randint(0, 10, (100,), generator=drawn))
    monkeypatch.setattr(type(task_of(conf.task)), "test", lambda self, data: examples)
    return examples


@pytest.mark.parametrize("workers", [None, 1, 2, 3, 7, 50])
def test_the_metrics_have_the_bits_of_one_pass_over_the_whole_set(
    conf: Conf, test_set: TensorDataset, workers: int | None
) -> None:
    model = first_weights(conf)
    scorer = Scorer.of(conf, {})
    scorer.load(model)
    whole = loop.evaluate(scorer.model, test_set, scorer.task, conf.trainer)
    pool = Here(workers) if workers else None
    score = central_score(conf, pool)
    assert score is not None
    assert score.begin(model)() == sums.metrics_of(scorer.task, whole.sums)
    if pool:
        assert len(pool.parts) == min(pool.workers, 7)
        assert [part.first for part in pool.parts][1:] == [part.last for part in pool.parts][:-1]
        assert (pool.parts[0].first, pool.parts[-1].last) == (0, 7)


def test_workers_that_are_none_leave_it_to_this_process(
    conf: Conf, test_set: TensorDataset
) -> None:
    pool = Here(0)
    score = central_score(conf, pool)
    assert score is not None and score.begin(first_weights(conf))()
    assert pool.parts == []


def test_a_large_test_set_is_in_one_worker_alone(
    conf: Conf, test_set: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(central, "DIVIDED_BELOW", 100)
    pool = Here(4)
    score = central_score(conf, pool)
    assert score is not None and score.begin(first_weights(conf))()
    assert [(part.first, part.last) for part in pool.parts] == [(0, 7)]


def test_a_set_that_needs_a_loader_is_evaluated_as_a_whole(
    conf: Conf, test_set: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = central_score(conf, None)
    assert expected is not None
    metrics = expected.begin(first_weights(conf))()

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return len(test_set)

        def __getitem__(self, index: int) -> Any:
            return test_set[index]

    rows = Rows()
    monkeypatch.setattr(type(task_of(conf.task)), "test", lambda self, data: rows)
    pool = Here(4)
    score = central_score(conf, pool)
    assert score is not None and score.begin(first_weights(conf))() == metrics
    assert [(part.first, part.last) for part in pool.parts] == [(0, 1)]


def test_an_error_of_the_task_is_the_same_error_when_it_is_waited_for(
    conf: Conf, test_set: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Task, output: Any, batch: Any) -> Any:
        return {}

    monkeypatch.setattr(type(task_of(conf.task)), "sums", broken)
    for workers in (None, Here(2)):
        score = central_score(conf, workers)
        assert score is not None
        wait: Callable[[], object] = score.begin(first_weights(conf))
        with pytest.raises(DataError, match="MDW-208"):
            wait()


def test_a_worker_loads_the_test_set_once_for_all_rounds(
    conf: Conf, test_set: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(self: Task, data: object) -> TensorDataset:
        loaded.append(data)
        return test_set

    monkeypatch.setattr(type(task_of(conf.task)), "test", load)
    model = first_weights(conf)
    # In a worker each call brings a configuration of its own.
    for _ in range(2):
        part_sums(model, Part(copy.deepcopy(conf), 0, 7, 7))
    assert len(loaded) == 1
    other = dataclasses.replace(conf.trainer, eval_batch_size=50)
    found = part_sums(model, Part(dataclasses.replace(conf, trainer=other), 0, 2, 2))
    assert len(loaded) == 2
    assert np.sum(found.counts["confusion"]) == 100


def test_a_task_without_a_test_set_has_no_central_score(conf: Conf) -> None:
    assert central_score(conf, None) is None


def test_where_workers_score_this_process_takes_no_device(
    conf: Conf, test_set: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(name: str) -> torch.device:
        assert name == "cpu", "a context would be made in the process that others are forked from"
        return torch.device(name)

    monkeypatch.setattr(loop, "choose", chosen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pool = Here(4)
    assert central_score(conf, pool) is not None
    score = CentralScore(conf, the_test_set(conf), pool)
    # On a GPU the set stays whole.
    assert (score._batches, score._parts) == (1, 1)
    conf.simulation.gpus = 0
    score = CentralScore(conf, the_test_set(conf), pool)
    assert (score._batches, score._parts) == (7, 4)


def the_test_set(conf: Conf) -> central._TestSet:
    found = central._TestSet.of(conf, here=False)
    assert found is not None
    return found
