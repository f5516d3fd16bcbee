"""Draws are Poisson's: each example or group by itself, in parts that fit, an empty one without a part."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from client.privacy.sampling import Draws, plan_of


def draws(
    dataset: Dataset[Any], batch: int, epochs: int = 1, at_once: int = 64, **kw: Any
) -> Draws:
    plan = plan_of(len(dataset), batch, epochs)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    return Draws(dataset, plan, at_once, torch.device("cpu"), kw.get("collate"), generator)


def of_groups(groups: list[int], batch: int, epochs: int, at_once: int, of_group: int) -> Draws:
    plan = plan_of(len(set(groups)), batch, epochs)
    generator = torch.Generator().manual_seed(3)
    rows = TensorDataset(torch.arange(len(groups)))
    cpu = torch.device("cpu")
    return Draws(rows, plan, at_once, cpu, None, generator, np.array(groups), of_group)


def test_a_round_has_as_many_draws_as_there_would_be_batches() -> None:
    plan = plan_of(100, 32, 2)
    assert (plan.steps, plan.rate) == (8, 0.32)
    assert plan_of(10, 32, 3).rate == 1.0, "a batch is never more than there is"


def test_each_example_is_drawn_by_itself_at_the_rate() -> None:
    dataset = TensorDataset(torch.arange(50.0))
    counts = torch.zeros(50)
    sizes = []
    for parts in draws(dataset, 5, epochs=400):
        chosen = torch.cat(
            [part.examples for part in parts] or [torch.tensor([], dtype=torch.long)]
        )
        assert len(set(chosen.tolist())) == len(chosen), "none twice"
        counts[chosen] += 1
        sizes.append(len(chosen))
    # 4,000 draws at a rate of .1: 400 each, with a standard deviation of 19.
    assert counts.min() > 320 and counts.max() < 480
    spread = torch.tensor(sizes).float().var()
    assert spread == pytest.approx(50 * 0.1 * 0.9, rel=0.15), "binomial, not a fixed size"


def test_a_draw_comes_in_parts_that_fit_and_an_empty_one_in_none() -> None:
    dataset = TensorDataset(torch.arange(20.0))
    seen = list(draws(dataset, 10, epochs=30, at_once=4))
    assert all(part.units == len(part.examples) <= 4 for parts in seen for part in parts)
    rare = list(draws(dataset, 1, epochs=10))
    assert any(parts == [] for parts in rare), "a rate of 1/20 leaves draws empty"


GROUPS = [7] * 9 + [2] * 1 + [5] * 3 + [4] * 2
"""The group of each of 15 examples, in numbers with gaps."""


def test_a_group_is_drawn_as_one_at_the_rate_of_groups_whatever_its_size() -> None:
    drawn: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for parts in of_groups(GROUPS, 1, epochs=1000, at_once=6, of_group=3):
        for part in parts:
            assert part.unit is not None and len(part.examples) <= 6
            assert part.unit.unique().tolist() == list(range(part.units)), "no gaps"
            for unit in range(part.units):
                examples = part.examples[part.unit == unit].tolist()
                (group,) = {GROUPS[one] for one in examples}
                assert len(set(examples)) == len(examples) == min(GROUPS.count(group), 3)
                drawn[group] += 1
                seen.update(examples)
    # 4,000 draws at a rate of a quarter: 1,000 of each, with a standard deviation of 27.
    assert set(drawn) == set(GROUPS) and all(880 < count < 1120 for count in drawn.values())
    # Of the nine examples of one group three at a time, others each time.
    assert all(260 < seen[one] < 410 for one in range(9)), "none is left out for good"


def test_a_draw_holds_no_group_twice_and_its_parts_all_of_it() -> None:
    for parts in of_groups(GROUPS, 4, epochs=3, at_once=9, of_group=9):
        examples = torch.cat([part.examples for part in parts])
        assert sorted(examples.tolist()) == list(range(15)), "a rate of 1 draws all of them"


def test_a_batch_is_what_the_task_makes_of_examples() -> None:
    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> dict[str, int]:
            return {"x": index}

    def collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        assert rows, "an empty draw never comes here"
        return {"x": torch.tensor([row["x"] for row in rows])}

    one = draws(Rows(), 2, collate=collate)
    assert one.batch(torch.tensor([4, 1]))["x"].tolist() == [4, 1]
    of_tensors = draws(TensorDataset(torch.arange(6.0), torch.arange(6)), 2)
    assert [t.tolist() for t in of_tensors.batch(torch.tensor([5, 0]))] == [[5.0, 0.0], [5, 0]]
