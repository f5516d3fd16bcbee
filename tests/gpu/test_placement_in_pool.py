"""The pool's workers, and the baselines' processes, share a machine's GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from client import placement
from conf.errors import SiloError
from conf.schema import Silo
from conf.targets import known
from server.engines.pool import PoolGrid
from server.scoring import baseline

HERE = Path(__file__).parent
Seen = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def told_of_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delenv(placement.MASK, raising=False)
    monkeypatch.delenv(placement.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def placed(workers: int, gpus: int | None = None) -> tuple[Seen, int]:
    """Return what each of four silos' processes was given and sees, and how many those are."""
    silos = [Silo(f"silo-{i}", i, 4) for i in range(4)]
    processes = set()
    seen = {}
    with PoolGrid(silos, workers, app="placed_app:app", gpus=gpus) as grid:
        names = grid.names()
        content = RecordDict({"config": ConfigRecord({"x": 1})})
        asked = [Message(content, node, "train") for node in grid.get_node_ids()]
        for reply in grid.replies(grid.push_messages(asked), 60):
            told = reply.content.config_records["placed"]
            processes.add(told["process"])
            name = names[reply.metadata.src_node_id]
            seen[name] = (str(told["given"]), str(told["mask"]))
    return seen, len(processes)


def test_worker_i_gets_gpu_i_modulo_n_and_still_sees_all_of_them() -> None:
    # All GPUs stay visible, so that a silo's own device: cuda:1 means what it says.
    assert placed(4) == (
        {
            "silo-0": ("0/2", "not set"),
            "silo-1": ("1/2", "not set"),
            "silo-2": ("0/2", "not set"),
            "silo-3": ("1/2", "not set"),
        },
        4,
    )


def test_with_simulation_gpus_0_no_worker_sees_one() -> None:
    assert set(placed(2, 0)[0].values()) == {("none", "")}


def test_without_workers_this_process_is_placed_and_told_nothing_afterwards() -> None:
    assert placed(0) == ({f"silo-{i}": ("0/1", "not set") for i in range(4)}, 1)
    assert set(placed(0, 0)[0].values()) == {("none", "")}
    assert placement.VARIABLE not in os.environ and placement.MASK not in os.environ


def test_more_gpus_than_there_are_start_nothing() -> None:
    with pytest.raises(SiloError, match="MDW-345"):
        placed(2, 3)


def test_the_baselines_processes_are_placed_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Process:
        _identity = (0,)

    monkeypatch.setattr(multiprocessing, "current_process", lambda: Process)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    given = []
    # The fifth is the one that was started in another's place.
    for number in (1, 2, 3, 4, 5):
        Process._identity = (number,)
        # Set, so that they are taken back at the test's end.
        for name in (placement.VARIABLE, known.VARIABLE):
            monkeypatch.setenv(name, "")
        baseline._start_worker("", 4, None)
        given.append(str(placement.given()))
    assert given == ["0/2", "1/2", "0/2", "1/2", "0/2"]
