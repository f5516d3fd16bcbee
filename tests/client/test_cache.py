"""What a client process keeps: data once a silo, one model, and nothing that another run asked for."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import cache
from client.batches import length
from client.cache import load_cached
from client.tasks.base import Data
from conf.compose import compose
from conf.errors import DataError
from conf.schema import DataConf, MlpConf, RunScope, Silo, TaskConf, TrainerConf
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


def test_silos_on_two_devices_have_a_model_each_that_is_built_once(
    scope: RunScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = vars(cache)["build_model"]

    def noted(*arguments: Any, **more: Any) -> Any:
        built.append(arguments)
        return build(*arguments, **more)

    monkeypatch.setattr(cache, "build_model", noted)
    # A device by its name and the one that `auto` is here stand for two GPUs.
    north, south = NORTH, dataclasses.replace(SOUTH, device="cpu")
    models = [load_cached(scope, one).model for _ in range(5) for one in (north, south)]
    assert len(built) == 2
    assert len({id(model) for model in models}) == 2
    # Another learning rate is the same model.
    faster = dataclasses.replace(scope, trainer=TrainerConf(lr=0.5))
    assert load_cached(faster, north).model is models[0]


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


# ---- data on disk


@pytest.fixture(autouse=True)
def each_look_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that this machine made wait would else stand for the next fifth of a second."""
    monkeypatch.setattr("client.data_files.COST", 0.0)


def own(root: Path, count: int, scale: float = 1.0) -> Silo:
    """A silo with digits of its own in a folder."""
    examples = np.arange(count * 64, dtype=np.float64).reshape(count, 8, 8) % 17 * scale
    np.savez(root / "digits.npz", x=examples, y=np.arange(count) % 10)
    return Silo("north", data=DataConf(root=str(root), partition="own"))


def size(data: Data) -> int:
    return sum(map(length, (data.train, data.validation, data.test)))


def test_data_that_changes_under_a_living_process_is_read_again(
    scope: RunScope, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silo = own(tmp_path, 20)
    first = load_cached(scope, silo)
    assert load_cached(scope, silo).data is first.data and size(first.data) == 20
    own(tmp_path, 30)
    with caplog.at_level(logging.WARNING):
        again = load_cached(scope, silo)
    assert size(again.data) == 30 and again.files != first.files
    assert "the data of north has changed" in caplog.text and str(tmp_path) not in caplog.text
    assert load_cached(scope, silo).data is again.data


def test_data_of_the_same_size_and_time_is_another_file_s(scope: RunScope, tmp_path: Path) -> None:
    silo = own(tmp_path, 20)
    first = load_cached(scope, silo)
    before = (tmp_path / "digits.npz").stat()
    (tmp_path / "new").mkdir()
    own(tmp_path / "new", 20, scale=0.5)
    os.utime(tmp_path / "new/digits.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new/digits.npz").replace(tmp_path / "digits.npz")
    (tmp_path / "new").rmdir()
    assert load_cached(scope, silo).data is not first.data


def test_data_that_changes_while_it_is_read_is_read_again_and_said_if_it_never_ends(
    scope: RunScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silo = own(tmp_path, 20)
    task = cache._task(scope.task)
    real = task.data
    writes = iter([30, 40])

    def read(silo: Silo) -> Data:
        data = real(silo)
        if (count := next(writes, None)) is not None:
            own(tmp_path, count)
        return data

    monkeypatch.setattr(task, "data", read)
    assert size(load_cached(scope, silo).data) == 40
    writes = iter(range(50, 60))
    own(tmp_path, 49)
    with pytest.raises(DataError, match="MDW-216"):
        load_cached(scope, silo)
