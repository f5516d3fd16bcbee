"""The indices of a pass: all examples once, in batches of the sizes that were asked for."""

from __future__ import annotations

import pytest
import torch

from client.batches.order import Order


@pytest.mark.parametrize(
    ("examples", "size", "pairs", "sizes"),
    [(9, 4, False, [4, 4, 1]), (9, 4, True, [4, 5]), (8, 4, True, [4, 4]), (0, 4, False, [])],
)
def test_the_sizes_of_the_batches(examples: int, size: int, pairs: bool, sizes: list[int]) -> None:
    order = Order(examples, size, 1, pairs)
    assert order.sizes == sizes and len(order) == len(sizes)
    assert [len(part) for part in order] == sizes


def test_a_pass_is_one_permutation_and_the_batches_are_its_parts() -> None:
    whole, parts = Order(10, 3, 5), Order(10, 3, 5)
    for _ in range(2):
        assert torch.equal(whole.drawn(), torch.cat(list(parts)))


def test_each_pass_of_each_seed_has_a_seed_of_its_own_for_what_is_drawn_of_examples() -> None:
    seeds = []
    for seed in (5, 6):
        order = Order(4, 2, seed)
        for _ in range(2):
            order.drawn()
            seeds.append(order.pass_seed)
    again = Order(4, 2, 5)
    again.drawn()
    assert len(set(seeds)) == 4 and again.pass_seed == seeds[0]
