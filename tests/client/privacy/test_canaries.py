"""An audited simulation: canaries that nobody has, in one silo's training by coins, and what the silo's
updates tell of them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from azureml_jobs.storage.folder_store import FolderStore
from client.batches import length
from client.privacy import canaries, sample_dp
from client.privacy.accountant import Release
from client.tasks.base import Contract
from client.tasks.kinds.token_classification import TokenClassification
from conf.errors import CheckpointError, SiloError
from conf.schema import SampleDpConf, Silo
from server.simulation import simulate

FIRST = Silo("silo-1", index=0, of=2)
ASKED = SampleDpConf(name="sample_dp", epsilon=4.0, audit=True)
AUDITED = [
    "task=digits",
    "federation.size=1",
    "privacy=sample_dp",
    "privacy.audit=true",
    "strategy.weighting=equal",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
    "trainer.batch_size=64",
]


def examples(count: int = 100) -> TensorDataset:
    draws = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(count, 1, 4, 4, generator=draws), torch.arange(count) % 3)


def planted(
    dataset: Dataset[Any], asked: SampleDpConf = ASKED, silo: Silo = FIRST
) -> canaries.Canaries:
    found = canaries.planted(dataset, asked, silo, 1)
    assert found is not None
    return found


def test_half_of_the_canaries_are_in_the_training_in_the_place_of_as_many_examples() -> None:
    found = planted(examples())
    assert len(found.examples) == len(found.coins) == 50, "at most half of 100"
    assert 10 < found.coins.sum() < 40
    there: list[Any] = [found.dataset[i] for i in range(50 + found.coins.sum())]
    assert length(found.dataset) == len(there)
    inputs = torch.stack([one[0] for one in there])
    for canary, coin in zip(found.examples, found.coins, strict=True):
        assert bool((inputs == canary[0]).all((1, 2, 3)).any()) == coin


def test_where_groups_are_protected_a_canary_is_a_group_by_itself() -> None:
    groups = np.arange(100) // 10
    found = canaries.planted(examples(), ASKED, FIRST, 1, groups)
    assert found is not None and found.groups is not None
    included = int(found.coins.sum())
    assert length(found.dataset) == len(found.groups) == 50 + included
    alone = found.groups[50:]
    assert len(set(alone.tolist())) == included and not set(alone) & set(groups)
    pixels = examples().tensors[0]
    for place, group in enumerate(found.groups[:50].tolist()):
        (where,) = (pixels == found.dataset[place][0]).all((1, 2, 3)).nonzero()
        assert groups[int(where)] == group, "the others keep theirs"


def test_a_canary_is_an_example_that_nobody_has_of_values_that_somebody_has() -> None:
    dataset = examples()
    inputs, targets = dataset.tensors
    for mixed, target in planted(dataset).examples:
        assert mixed.shape == (1, 4, 4) and target in targets
        assert not (inputs == mixed).all((1, 2, 3)).any()
        assert bool((inputs == mixed).any(0).all()), "each pixel is somebody's at that place"


def test_the_canaries_are_the_same_in_each_round_and_others_with_another_seed() -> None:
    one, same = planted(examples()), planted(examples())
    assert np.array_equal(one.coins, same.coins)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.examples, same.examples, strict=True))
    other = canaries.planted(examples(), ASKED, FIRST, 2)
    assert other is not None and not np.array_equal(one.coins, other.coins)


class Named(TensorDataset):
    """Examples that are a mapping, as a task of one's own may have them."""

    def __getitem__(self, index: int) -> Any:
        pixels, label = (tensor[index] for tensor in self.tensors)
        return {"pixels": pixels, "label": label}


def test_examples_of_another_form_are_canaries_as_they_are() -> None:
    found = planted(Named(*examples().tensors))
    assert set(found.examples[0]) == {"pixels", "label"}
    ragged: Any = [(torch.rand(3 + i), torch.tensor(i % 2)) for i in range(100)]
    assert all(one[0].dim() == 1 for one in planted(ragged).examples)


class Tags(TokenClassification):
    """Sequences of some lengths."""

    name = "tags"
    contract = Contract((None,), ("no", "yes"), dense=True)


def test_sequences_become_canaries_of_their_own_length_with_others_tags() -> None:
    draws = np.random.default_rng(0)
    rows = [
        (draws.integers(9, size=3 + i % 2), draws.integers(2, size=3 + i % 2)) for i in range(80)
    ]
    found = planted(Tags().dataset(rows, slice(None))).examples
    assert all(len(tokens) == len(tags) for tokens, tags in found)
    net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2))
    assert canaries.losses_of(found, net, Tags()).shape == (40,)


def test_an_audit_is_of_the_first_silo_of_a_simulation_with_enough_examples() -> None:
    with pytest.raises(SiloError, match=r"MDW-388: .*has 30 training examples"):
        canaries.planted(examples(30), ASKED, FIRST, 1)
    second = dataclasses.replace(FIRST, name="silo-2", index=1)
    assert canaries.planted(examples(), ASKED, second, 1) is None
    silent = dataclasses.replace(ASKED, audit=False)
    assert canaries.planted(examples(), silent, FIRST, 1) is None


def write(folder: Path, round: int, coins: list[bool], scores: list[float]) -> None:
    facts = canaries.FORMAT.stamp | {"coins": coins, "scores": scores}
    FolderStore(folder).replace(f"silo-1/audit/{round:06d}.json", json.dumps(facts).encode())


def test_scores_add_up_over_the_rounds_that_closed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert canaries.noted(store, "silo-1", 3) is None
    write(tmp_path, 1, [True, False], [1.0, -1.0])
    write(tmp_path, 3, [True, False], [0.5, 0.25])
    write(tmp_path, 4, [True, False], [100.0, 100.0])
    found = canaries.noted(store, "silo-1", 3)
    assert found is not None
    assert (found[0].tolist(), found[1].tolist(), found[2]) == ([True, False], [1.5, -0.75], 2)
    write(tmp_path, 2, [True, False], [1.0])
    with pytest.raises(CheckpointError, match="MDW-546"):
        canaries.noted(store, "silo-1", 3)


def test_an_audited_simulation_says_both_bounds_wherever_it_says_epsilon(tmp_path: Path) -> None:
    more = ["data.examples=300", "run.rounds=2", "privacy.epsilon=4", f"run.output={tmp_path}"]
    done = simulate([*AUDITED, *more])
    found = done.result.privacy["audit"]
    assert found["rounds"] == 2 and found["canaries"] == 120 and found["confidence"] == 0.95
    assert found["holds"] and found["epsilon_at_least"] <= found["epsilon_at_most"] <= 4
    assert found["epsilon_at_most"] == done.result.privacy["silos"]["silo-1"]["epsilon"]
    for name in ("report.html", "model/card.md"):
        text = (done.folder / name).read_text()
        assert "120 canaries" in text and "at most" in text, name
    assert json.loads((done.folder / "result.json").read_text())["privacy"]["audit"] == found


def _quiet(*given: Any, **named: Any) -> Any:
    """Train with hardly any noise, whatever was counted."""
    places = list(given)
    counted: Release = places[5]
    places[5] = dataclasses.replace(counted, noise=1e-6)
    return TRAIN(*places, **named)


TRAIN = sample_dp.train


@pytest.mark.slow
def test_noise_that_is_counted_and_not_added_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough steps to know a hundred canaries by heart, where there is no noise.
    words = ["run.rounds=3", "trainer.epochs=20", "trainer.lr=0.5", "model.hidden=[256]"]
    where = [f"run.output={tmp_path}", "privacy.epsilon=1", "data.examples=400"]
    words.append("trainer.batch_size=32")
    honest = simulate([*AUDITED, *words, *where]).result.privacy["audit"]
    assert honest["holds"] and honest["epsilon_at_least"] <= 1
    monkeypatch.setattr(sample_dp, "train", _quiet)
    lying = simulate([*AUDITED, *words, *where])
    found = lying.result.privacy["audit"]
    assert not found["holds"] and found["epsilon_at_least"] > 1.0 >= found["epsilon_at_most"]
    assert "MDW-387" in (lying.folder / "report.html").read_text()


class Losses:
    """What is asked of a task for its losses."""

    collate = None

    def output(self, model: torch.nn.Module, batch: Any) -> Tensor:
        logits: Tensor = model(batch[0])
        return logits

    def example_losses(self, output: Tensor, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(output, batch[1], reduction="none")


def test_a_loss_is_that_of_each_canary_and_leaves_the_model_as_it_was() -> None:
    held = planted(examples(400)).examples
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(16, 3))
    found = canaries.losses_of(held, net, Losses())  # type: ignore[arg-type]
    assert found.shape == (200,) and net.training
    again = canaries.losses_of(held[100:101], net, Losses())  # type: ignore[arg-type]
    assert again[0] == pytest.approx(found[100], rel=1e-6), "no dropout while it is scored"
