"""A draw's seed follows from who draws, in which round and for what, and from nothing else."""

from __future__ import annotations

from itertools import product

from conf.seeds import seed_for

OF_THE_FIRST_RELEASE = 5_623_170_379_124_549_177


def test_the_seeds_of_a_release_stay() -> None:
    # A change here would change every model: results of earlier releases could not be made again.
    assert seed_for(0, "north", 1, "train") == OF_THE_FIRST_RELEASE


def test_every_part_counts_and_none_runs_into_the_next() -> None:
    asked = list(product((0, 1, 11), ("a", "a1", "1"), (1, 11), ("train", "evaluate")))
    seeds = {seed_for(*one) for one in asked}
    assert len(seeds) == len(asked)


def test_a_seed_is_what_torch_and_numpy_take() -> None:
    assert all(0 <= seed_for(seed, "north", 1, "train") < 2**63 for seed in range(200))
