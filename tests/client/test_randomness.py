"""One seed decides every draw, whichever generator it is from; outside nothing has moved."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from client.randomness import aside, mixed, seed_all, seeded, torch_alone
from client.tasks import task_named
from strategies.silo_half import SiloHalf

CPU = torch.device("cpu")


def draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def states() -> tuple[object, ...]:
    of_numpy = np.random.get_state(legacy=True)
    return torch.get_rng_state().tolist(), of_numpy[1].tolist(), of_numpy[2], random.getstate()


def test_the_seed_decides_all_generators() -> None:
    drawn = []
    for seed in (5, 5, 6):
        with seeded(CPU, seed):
            drawn.append(draws())
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize("inside", [lambda: seeded(CPU, 2**62), aside], ids=["seeded", "aside"])
def test_every_generator_is_left_as_it_was(inside: Callable[[], object]) -> None:
    seed_all(3)
    before = states()
    with pytest.raises(ZeroDivisionError), inside():  # type: ignore[attr-defined]  # a context
        draws()
        raise ZeroDivisionError
    assert states() == before


def test_one_inside_another_does_not_disturb_it() -> None:
    with seeded(CPU, 5):
        expected = (draws(), draws())
    with seeded(CPU, 5):
        first = draws()
        with aside():
            seed_all(9)
            draws()
        with seeded(CPU, 7):
            draws()
        assert (first, draws()) == expected


def test_what_is_torch_s_own_or_of_this_tree_draws_from_torch_alone() -> None:
    class Own(nn.Module):
        """Somebody's model."""

    assert torch_alone(nn.Sequential(nn.Linear(1, 1)), task_named("digits"), SiloHalf())
    assert not torch_alone(nn.Sequential(Own()), task_named("digits"))
    assert not torch_alone(nn.Linear(1, 1), object())
    before = states()
    with seeded(CPU, 5, all_generators=False):
        drawn = torch.rand(1).item()
        assert states()[1:] == before[1:]
    with seeded(CPU, 5):
        assert torch.rand(1).item() == drawn


def test_seeds_of_other_numbers_differ_and_the_same_are_the_same() -> None:
    made = {
        mixed(seed, epoch, index) for seed in range(9) for epoch in range(9) for index in range(9)
    }
    assert len(made) == 729
    assert mixed(2**63 + 5, 1) == mixed(2**63 + 5, 1) != mixed(1, 2**63 + 5)
    assert all(0 <= seed < 2**63 for seed in made)
