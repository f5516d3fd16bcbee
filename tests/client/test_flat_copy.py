"""Arrays travel between host and GPU in one piece, and are the same; a CPU copies nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from client import flat_copy
from client.flat_copy import ALIGNED, to_device, to_host

CPU = torch.device("cpu")


def arrays() -> dict[str, Tensor]:
    return {
        "count": torch.tensor(7),
        "half": torch.arange(5, dtype=torch.float16),
        "none": torch.empty(0, 3),
        "image": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "weight": torch.rand(3, 2),
        "flag": torch.tensor([True, False]),
    }


def test_on_a_cpu_nothing_is_copied() -> None:
    given = arrays()
    assert all(a is b for a, b in zip(given.values(), to_device(given, CPU).values(), strict=True))
    pointers = [array.data_ptr() for array in to_host(given).values()]
    assert pointers == [array.data_ptr() for array in given.values()]
    assert to_host({"w": torch.nn.Parameter(torch.ones(1))})["w"].requires_grad is False


def test_parts_of_one_piece_are_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_copy, "_pinned", [])
    given = arrays()
    places, total = flat_copy._places(given)
    assert all(place % ALIGNED == 0 for place in places.values()) and total % ALIGNED == 0
    piece = flat_copy._piece(total)
    for name, array in given.items():
        flat_copy._part(piece, places[name], array).copy_(array)
    for name, array in given.items():
        part = flat_copy._part(piece, places[name], array)
        assert torch.equal(part, array) and part.dtype == array.dtype
        assert part.is_contiguous()
    # Used again, and made longer where it must be.
    assert flat_copy._piece(total - 1) is piece
    assert flat_copy._piece(total + 1) is not piece
    assert len(flat_copy._pinned) == 1
