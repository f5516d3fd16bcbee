"""Draws are Poisson's: each example by itself, in parts that fit, an empty one without a part."""

from __future__ import annotations

from typing import Any

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


def test_a_round_has_as_many_draws_as_there_would_be_batches() -> None:
    plan = plan_of(100, 32, 2)
    assert (plan.steps, plan.rate) == (8, 0.32)
    assert plan_of(10, 32, 3).rate == 1.0, "a batch is never more than there is"


def test_each_example_is_drawn_by_itself_at_the_rate() -> None:
    dataset = TensorDataset(torch.arange(50.0))
    counts = torch.zeros(50)
    sizes = []
    for parts in draws(dataset, 5, epochs=400):
        chosen = torch.cat(parts) if parts else torch.tensor([], dtype=torch.long)
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
    assert all(len(part) <= 4 for parts in seen for part in parts)
    rare = list(draws(dataset, 1, epochs=10))
    assert any(parts == [] for parts in rare), "a rate of 1/20 leaves draws empty"


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
