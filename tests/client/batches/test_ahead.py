"""Batches are copied one ahead, on a stream of their own that waits for the computing and it for them.

Streams are made up here; real ones are in `tests/gpu/test_fast_path_cuda.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from client.batches import ahead
from client.batches.ahead import copied_ahead

CPU = torch.device("cpu")


class Stream:
    """Notes what waits for what."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    def wait_stream(self, other: Stream) -> None:
        self.said.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        self.said.append(f"{self.name} is there")
        return "copy"

    def wait_event(self, event: str) -> None:
        self.said.append(f"{self.name} waits for {event}")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []
    computing, copying = Stream("computing", noted), Stream("copying", noted)

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(ahead, "_copying", lambda device: copying)
    return noted


COPY = ["copying waits for computing", "copying is there"]
USE = ["computing waits for copy"]


def batches() -> Iterator[dict[str, Tensor]]:
    for number in range(3):
        yield {"x": torch.full((2,), number)}


def test_the_next_batch_is_on_its_way_before_the_one_before_it_is_used(said: list[str]) -> None:
    found: list[Any] = []
    for batch in copied_ahead(batches(), CPU):
        said.append("used")
        found.append(batch["x"])
    assert torch.equal(torch.stack(found), torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert said == [*COPY, *COPY, *USE, "used", *COPY, *USE, "used", *USE, "used"]


def test_a_pass_that_is_given_up_waits_for_the_copy_that_was_begun(said: list[str]) -> None:
    going = copied_ahead(batches(), CPU)
    next(going)
    said.clear()
    going.close()  # type: ignore[attr-defined]  # a generator
    assert said == USE


def test_no_batch_at_all_is_no_copy(said: list[str]) -> None:
    assert list(copied_ahead([], CPU)) == [] and said == []
