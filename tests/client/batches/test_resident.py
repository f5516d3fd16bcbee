"""Sets stay on a GPU within one budget a process, and leave it when its memory is full."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from client import device_failures
from client.batches.resident import SHARE, SHARE_AT_FIRST, Residents, residents

GPU = torch.device("cuda", 0)
OTHER = torch.device("cuda", 1)
MIB = 2**20


class FakeTensor:
    """Bytes that say where they were copied to."""

    def __init__(self, nbytes: int, where: object = None) -> None:
        self.nbytes = nbytes
        self.where = where

    def to(self, device: torch.device) -> FakeTensor:
        return FakeTensor(self.nbytes, device)


class FakeSet:
    """A set of one tensor."""

    def __init__(self, nbytes: int) -> None:
        self.tensors = (FakeTensor(nbytes),)


class Gpu:
    """What torch says of a GPU's memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        self.reserved = 0
        self.most = 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free, 10 * free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.most)


def offered(here: Residents, nbytes: int, device: torch.device = GPU) -> Any:
    made: Any = FakeSet(nbytes)
    here.offer(made, device)
    return made


def test_before_it_is_known_what_training_takes_only_small_sets_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Residents()
    Gpu(monkeypatch, 1000 * MIB)
    small = int(SHARE_AT_FIRST * 1000) * MIB
    assert here.copies(offered(here, small + 1), GPU) is None
    kept = offered(here, small)
    copies: Any = here.copies(kept, GPU)
    assert copies[0].where == GPU
    assert here.copies(kept, OTHER) is None


def test_all_sets_together_keep_to_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Residents()
    gpu = Gpu(monkeypatch, 1000 * MIB)
    here.measure(GPU)
    kept = []
    for _ in range(8):
        one = offered(here, 100 * MIB)
        if here.copies(one, GPU):
            gpu.free -= 100 * MIB
            gpu.reserved += 100 * MIB
            kept.append(one)
    # And not a quarter of what is left each time.
    assert len(kept) * 100 == SHARE * 1000 - 50
    assert here.bytes_on(GPU) == 200 * MIB


def test_what_training_takes_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Residents()
    gpu = Gpu(monkeypatch, 1000 * MIB)
    gpu.most = 900 * MIB
    here.measure(GPU)
    # After the round torch has given all of it back.
    assert here.copies(offered(here, 101 * MIB), GPU) is None
    assert here.copies(offered(here, 100 * MIB), GPU) is not None
    # What torch still has in reserve is not wanted twice.
    gpu.reserved = 900 * MIB
    gpu.free = 400 * MIB
    assert Residents().copies(offered(here, 25 * MIB), GPU) is None
    assert here.copies(offered(here, 25 * MIB), GPU) is not None


def test_where_memory_is_full_all_sets_leave_and_none_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Residents()
    Gpu(monkeypatch, 1000 * MIB)
    here.measure(GPU)
    here.measure(OTHER)
    first, elsewhere = offered(here, MIB), offered(here, MIB, OTHER)
    here.leave(GPU)
    assert here.copies(first, GPU) is None and here.bytes_on(GPU) == 0
    here.offer(first, GPU)
    assert here.copies(first, GPU) is None
    assert here.copies(elsewhere, OTHER) is not None


def test_a_set_for_which_another_process_took_the_room_stays_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Residents()
    Gpu(monkeypatch, 1000 * MIB)

    def full(tensor: FakeTensor, device: torch.device) -> FakeTensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FakeTensor, "to", full)
    assert here.copies(offered(here, MIB), GPU) is None


def test_a_set_that_nobody_has_any_more_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Residents()
    Gpu(monkeypatch, 1000 * MIB)
    kept = offered(here, MIB)
    assert here.bytes_on(GPU) == MIB
    del kept
    gc.collect()
    assert here.bytes_on(GPU) == 0


def test_on_a_cpu_nothing_is_copied_and_full_memory_makes_the_sets_of_this_process_leave() -> None:
    here = Residents()
    cpu = torch.device("cpu")
    assert here.copies(offered(here, 1, cpu), cpu) is None
    assert residents.leave in device_failures._spared


def test_processes_that_share_a_gpu_share_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEADOW_GPU", "0/4")
    here = Residents()
    Gpu(monkeypatch, 1000 * MIB)
    here.measure(GPU)
    each = int(SHARE * 1000 / 4)
    assert here.copies(offered(here, (each + 1) * MIB), GPU) is None
    assert here.copies(offered(here, each * MIB), GPU) is not None
    # The other GPU is this process's alone, if it uses it at all.
    here.measure(OTHER)
    assert here.copies(offered(here, 4 * each * MIB, OTHER), OTHER) is not None


def test_what_the_others_will_train_with_stays_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEADOW_GPU", "0/4")
    here = Residents()
    gpu = Gpu(monkeypatch, 1000 * MIB)
    gpu.most = 245 * MIB
    here.measure(GPU)
    assert here.copies(offered(here, 21 * MIB), GPU) is None
    assert here.copies(offered(here, 20 * MIB), GPU) is not None
