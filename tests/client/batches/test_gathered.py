"""Sets in memory: chosen on the device, else gathered one batch ahead; the same rows either way."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from client.batches import gathered
from client.batches.gathered import InMemory, gathered_ahead
from client.batches.order import Order
from client.batches.resident import residents

CPU = torch.device("cpu")


def dataset() -> TensorDataset:
    numbers = torch.arange(11)
    return TensorDataset(numbers, torch.stack([numbers, -numbers], 1).to(torch.uint8))


def rows(batches: Any) -> list[Tensor]:
    return [torch.cat([first.unsqueeze(1), second], 1) for first, second in batches]


def test_batches_gathered_ahead_are_those_chosen_one_by_one() -> None:
    of = dataset()
    expected = rows(InMemory(of, Order(11, 4, 3), CPU, keep=True))
    ahead = rows(gathered_ahead(of.tensors, list(Order(11, 4, 3)), CPU))
    assert len(expected) == len(ahead) == 3
    assert all(torch.equal(a, b) for a, b in zip(expected, ahead, strict=True))
    assert list(gathered_ahead(of.tensors, [], CPU)) == []


def test_the_thread_is_one_batch_ahead_and_ends_with_the_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = list(Order(12, 2))
    made: list[int] = []
    select = torch.index_select

    def noted(*arguments: Any, **more: Any) -> Tensor:
        made.append(len(made))
        return select(*arguments, **more)

    monkeypatch.setattr(torch, "index_select", noted)
    batches = gathered_ahead((torch.arange(12),), parts, CPU)
    next(batches)
    # The first and at most the one after it: not the whole set.
    assert len(made) <= 2
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert not [t for t in threading.enumerate() if t.name.startswith("meadow batches")]


def test_a_set_that_has_to_leave_the_device_in_the_middle_of_a_pass_goes_on_from_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = dataset()
    on: dict[str, Any] = {"copies": of.tensors}
    monkeypatch.setattr(residents, "copies", lambda dataset, device: on["copies"])
    expected = rows(InMemory(of, Order(11, 4, 3), CPU, keep=False))
    batches = iter(InMemory(of, Order(11, 4, 3), CPU, keep=False))
    found = [next(batches)]
    on["copies"] = None
    found += batches
    assert all(torch.equal(a, b) for a, b in zip(expected, rows(found), strict=True))


def test_a_choice_that_finds_memory_full_is_made_from_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = dataset()
    on: dict[str, Any] = {"copies": of.tensors}
    monkeypatch.setattr(residents, "copies", lambda dataset, device: on["copies"])
    monkeypatch.setattr("client.device_failures._spared", [lambda device: on.update(copies=None)])
    choose = gathered.chosen
    asked: list[int] = []

    def full_once(tensors: Any, part: Tensor) -> Any:
        asked.append(len(part))
        if len(asked) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return choose(tensors, part)

    monkeypatch.setattr(gathered, "chosen", full_once)
    found = rows(InMemory(of, Order(11, 4, 3), CPU, keep=False))
    assert asked == [4, 4]  # and the rest by the thread
    monkeypatch.setattr(gathered, "chosen", choose)
    expected = rows(InMemory(of, Order(11, 4, 3), CPU, keep=False))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
