"""What a client process keeps: data once a silo, one model, and nothing that another run asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from client import cache
from client.cache import load_cached
from conf.compose import compose
from conf.schema import DataConf, MlpConf, RunScope, Silo, TaskConf
from strategies.wire.run_config import pack, unpack

NORTH = Silo("north", data=DataConf(partition="iid", examples=20))
SOUTH = Silo("south", data=DataConf(partition="iid", examples=30))


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_data", {})
    monkeypatch.setattr(cache, "_models", [])
    monkeypatch.setattr(cache, "_tasks", [])
    # The threads of torch are this whole process's.
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


@pytest.fixture(scope="module")
def scope() -> RunScope:
    return unpack(pack(compose([])))


def test_a_second_round_reads_no_data_and_builds_no_model(scope: RunScope) -> None:
    first = load_cached(scope, NORTH)
    again = load_cached(scope, NORTH)
    assert again.data is first.data and again.model is first.model


def test_silos_of_one_worker_have_data_of_their_own_and_share_the_model(scope: RunScope) -> None:
    north = load_cached(scope, NORTH)
    south = load_cached(scope, SOUTH)
    assert south.data is not north.data and south.model is north.model
    assert load_cached(scope, NORTH).data is north.data


def test_settings_that_changed_are_read_again(scope: RunScope) -> None:
    before = load_cached(scope, NORTH).data
    changed = dataclasses.replace(NORTH, data=DataConf(partition="iid", examples=10))
    assert load_cached(scope, changed).data is not before


@pytest.mark.parametrize("part", ["model", "trainer", "device"])
def test_another_kind_of_model_takes_the_place_of_the_one_before(
    scope: RunScope, part: str
) -> None:
    before = load_cached(scope, NORTH).model
    other = scope
    silo = NORTH
    if part == "model":
        other = dataclasses.replace(scope, model=MlpConf(hidden=[3]))
    elif part == "trainer":
        trainer = dataclasses.replace(scope.trainer, channels_last=True)
        other = dataclasses.replace(scope, trainer=trainer)
    else:
        silo = dataclasses.replace(NORTH, device="cpu")
    assert load_cached(other, silo).model is not before
    assert len(cache._models) == 1


def test_the_silo_s_own_threads_come_before_the_trainer_s(
    scope: RunScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    load_cached(scope, NORTH)
    load_cached(scope, dataclasses.replace(NORTH, threads=3))
    assert told == [scope.trainer.threads, 3]


def test_an_unknown_task_is_refused_and_nothing_is_kept(scope: RunScope) -> None:
    with pytest.raises(Exception, match="no_such"):
        load_cached(dataclasses.replace(scope, task=TaskConf(name="no_such")), NORTH)
    assert not cache._data and not cache._models


def test_the_data_of_a_silo_that_another_process_serves_now_is_let_go(scope: RunScope) -> None:
    north = load_cached(scope, NORTH).data
    south = load_cached(scope, SOUTH).data
    cache.let_go(["north", "never-seen"])
    assert load_cached(scope, SOUTH).data is south
    assert load_cached(scope, NORTH).data is not north
