"""A set of bytes is scaled once on the CPU, and batch by batch where its bytes are on a GPU."""

from __future__ import annotations

import pickle  # noqa: TID251  # that a set can be sent to a process of its own
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from client.batches.stored import StoredSet, as_stored, as_used
from client.tasks import task_named
from conf.schema import DataConf, Silo


def halved(inputs: Tensor) -> Tensor:
    return inputs.div_(2)


def made() -> StoredSet:
    return StoredSet(torch.arange(6, dtype=torch.uint8), torch.arange(6), scaled=halved)


SCALED = torch.arange(6) / 2


def test_whoever_asks_for_tensors_gets_scaled_ones_made_once() -> None:
    dataset = made()
    assert len(dataset) == 6
    first, labels = dataset.tensors
    assert torch.equal(first, SCALED) and first.dtype == torch.float32
    assert dataset.tensors[0] is first and torch.equal(labels, torch.arange(6))
    assert torch.equal(dataset[3][0], torch.tensor(1.5))
    # The bytes are gone: nothing is there twice.
    assert dataset.stored is None
    assert as_stored(dataset)[0] is first
    assert as_used(dataset, dataset.tensors) == dataset.tensors


def test_bytes_that_are_used_stay_and_each_batch_of_them_is_scaled() -> None:
    dataset = made()
    stored = as_stored(dataset)
    assert stored[0].dtype == torch.uint8
    for _ in range(2):
        batch = tuple(tensor[2:4] for tensor in stored)
        inputs, labels = as_used(dataset, batch)
        assert torch.equal(inputs, SCALED[2:4]) and torch.equal(labels, torch.tensor([2, 3]))
        # Somebody asks for all of them in between.
        assert torch.equal(dataset.tensors[0], SCALED)
    assert as_stored(dataset)[0] is stored[0]


def test_any_other_set_is_used_as_it_is() -> None:
    dataset = TensorDataset(torch.ones(2))
    assert as_stored(dataset) is dataset.tensors
    assert as_used(dataset, dataset.tensors) is dataset.tensors


def test_the_first_examples_are_a_set_that_touches_nothing_of_the_whole() -> None:
    dataset = made()
    few = dataset.first(2)
    assert torch.equal(few.tensors[0], SCALED[:2])
    assert dataset.stored is not None
    scaled = made()
    assert torch.equal(scaled.tensors[0], SCALED)
    assert torch.equal(scaled.first(2).tensors[0], SCALED[:2])


def test_it_can_be_sent_to_another_process() -> None:
    again: Any = pickle.loads(pickle.dumps(made()))  # noqa: S301  # our own, of this line
    assert torch.equal(again.tensors[0], SCALED)


def test_digits_are_stored_as_bytes() -> None:
    data = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=30)))
    assert isinstance(data.train, StoredSet)
    stored = as_stored(data.train)
    assert stored[0].dtype == torch.uint8 and stored[0].shape[1:] == (1, 8, 8)
    assert torch.equal(as_used(data.train, stored)[0], data.train.tensors[0])


DIGITS = task_named("digits")
