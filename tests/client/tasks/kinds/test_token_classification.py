"""A class for each token of sequences of any length: padding and ignored tokens count nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from client import loop, sums
from client.dry_round import dry_round
from client.models import build_model
from client.tasks.base import Contract
from client.tasks.kinds.token_classification import IGNORED, Rows, TokenClassification
from conf.errors import DataError
from conf.schema import DataConf, MlpConf, ModelConf, Silo, TaskModelConf, TrainerConf
from tests.client.tasks.kinds.unions import federated


class Names(TokenClassification):
    """Which words are names, from lines of tokens and of tags."""

    name = "names"
    contract = Contract((None,), ("other", "name", "place"), dense=True)

    def model(self, conf: ModelConf) -> nn.Module:
        return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3))

    def read(self, root: Path) -> Rows:
        lines = [np.array(line.split(), np.int64) for line in root.read_text().splitlines()]
        return list(zip(lines[::2], lines[1::2], strict=True))


def sequences(count: int, known: int, rng: np.random.Generator) -> Rows:
    rows = []
    for length in rng.integers(1, 9, count):
        tags = rng.integers(0, known, length)
        tags[rng.random(length) < 0.2] = IGNORED
        rows.append((rng.integers(1, 50, length), tags))
    rows.append((np.ones(1, np.int64), np.zeros(1, np.int64)))
    return rows


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_union_s_metrics_are_scikit_learns_over_tokens(
    count: int, known: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = sequences(count, known, rng)
    logits = [
        torch.from_numpy(rng.normal(size=(len(tags), 3)).astype(np.float32)) for _, tags in rows
    ]
    metrics = federated(Names(), logits, list(rows), rng)
    tags = np.concatenate([tags for _, tags in rows])
    flat = torch.cat(logits)
    counts = tags != IGNORED
    truth = tags[counts]
    guesses = flat.argmax(1).numpy()[counts]
    assert metrics["accuracy"] == accuracy_score(truth, guesses)
    macro = f1_score(truth, guesses, average="macro", zero_division=0)
    assert metrics["f1"] == pytest.approx(macro, rel=1e-12)
    pooled = nn.functional.cross_entropy(flat.double(), torch.from_numpy(tags))
    assert metrics["loss"] == pytest.approx(float(pooled), rel=1e-5)


def test_sequences_of_any_length_are_learnt_from_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for length in rng.integers(1, 12, 120):
        tokens = rng.integers(1, 50, length)
        lines += [" ".join(map(str, tokens)), " ".join(map(str, tokens % 3))]
    path = tmp_path / "names.txt"
    path.write_text("\n".join(lines))
    task = Names()
    parts = [
        task.data(Silo(name, index, 2, DataConf(root=str(path), partition="quantity")))
        for index, name in enumerate(("north", "south"))
    ]
    sizes = [len(split) for part in parts for split in (part.train, part.validation, part.test)]
    assert sum(sizes) == 120
    data = parts[0]
    trainer = TrainerConf(epochs=30, batch_size=8, lr=0.5)
    model = loop.prepare(build_model(TaskModelConf(), task, 0), trainer)
    loop.train(model, data.train, task, trainer, seed=0)
    evaluation = loop.evaluate(model, data.validation, task, trainer)
    validation: Any = data.validation
    tokens = sum(len(tags) for _, tags in validation)
    assert int(evaluation.sums["size"]) == tokens > evaluation.examples
    assert sums.metrics_of(task, evaluation.sums)["accuracy"] > 0.8


def test_a_batch_is_padded_to_its_longest_sequence() -> None:
    rows = [(np.array([5, 6, 7]), np.array([0, 1, 2])), (np.array([8]), np.array([1]))]
    tokens, tags = Names().collate(rows)
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert tags.tolist() == [[0, 1, 2], [1, IGNORED, IGNORED]]
    assert Names().size((tokens, tags)) == 4


def test_a_batch_without_a_token_that_counts_has_no_loss() -> None:
    batch = (torch.ones(2, 3, dtype=torch.long), torch.full((2, 3), IGNORED))
    assert float(Names().loss(torch.zeros(2, 3, 3), batch)) == 0


def test_the_models_of_this_tree_say_that_they_give_one_answer_an_example() -> None:
    with pytest.raises(DataError, match="MDW-207: model=mlp gives one answer an example"):
        build_model(MlpConf(), Names(), 0)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (([1, 2], [0]), r"it has tokens \(2,\) and tags \(1,\)"),
        (([], []), r"it has tokens \(0,\)"),
        (([1.5], [0]), "its tokens are float64"),
        (([1, 2], [0, 3]), "go from 0 to 3"),
    ],
)
def test_a_sequence_that_does_not_fit_is_named(row: tuple[list[int], list[int]], says: str) -> None:
    with pytest.raises(DataError, match=f"MDW-202: x, sequence 1 .*{says}"):
        Names().checked([([1], [0]), row], "x")


def test_examples_made_up_from_the_contract_pass_a_dry_round() -> None:
    task = Names()
    dry_round(
        build_model(TaskModelConf(), task, 0), task.made_up(), task, TrainerConf(device="cpu")
    )
