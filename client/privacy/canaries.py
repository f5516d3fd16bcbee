"""Canaries in a silo's training, and how much the silo's updates tell of each: for an audited
simulation (`privacy.audit`), and nowhere else.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846): of some canaries each is in the training split by
a fair coin. A canary is an example that nobody has, whose inputs are mixed of the others' and whose
target is one of theirs: it lies where no other example helps, so that what the model learns of it is
learned from it. Where groups of examples are protected each canary is a group by itself. Its score is
by how much the silo's training lowers its loss, added up over rounds: a function of what leaves the
silo and of nothing else, which is what a guarantee is about.

    <silo>/audit/000003.json   the canaries' coins, and their scores in a round

    MDW-388 too few examples for an audit     MDW-546 scores that can't be read
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from azureml_jobs.storage.base import Store
from azureml_jobs.storage.opened import open_store
from client.batches import length
from client.cache import Loaded
from client.device import device_of, full_precision
from client.partition import Indices
from client.privacy.lower_bound import Coins, Scores
from client.tasks.base import Task
from client.trees import map_tensors
from conf.errors import SiloError
from conf.schema import SampleDpConf, Silo
from conf.seeds import seed_for
from conf.versions import Format

FORMAT: Final = Format(
    "list of an audit's scores", 1, damaged="MDW-546", fix="Run the audit again, without resuming."
)
FEWEST: Final = 20
"""Canaries with which anything can be proven."""
DONORS: Final = 64
"""Examples of which a canary's inputs are mixed."""
AT_ONCE: Final = 64
"""Canaries whose loss is taken together."""


_last: list[tuple[tuple[str, int, int, bool], Dataset[Any], Canaries]] = []
"""Those of the round before: to make them reads many examples."""


@dataclass(frozen=True)
class Canaries:
    """The canaries of a silo, with the coin of each, and its training split with those in it that the
    coins included; of that the group of each example, where there are groups.
    """

    examples: list[Any]
    coins: Coins
    dataset: Dataset[Any]
    groups: Indices | None = None


class Planted(Dataset[Any]):
    """Some examples of a set, and others after them."""

    def __init__(self, examples: Dataset[Any], chosen: Sequence[int], others: list[Any]) -> None:
        self._examples = examples
        self._chosen = chosen
        self._others = others

    def __len__(self) -> int:
        return len(self._chosen) + len(self._others)

    def __getitem__(self, index: int) -> Any:
        beyond = index - len(self._chosen)
        return self._others[beyond] if beyond >= 0 else self._examples[self._chosen[index]]


def planted(
    dataset: Dataset[Any],
    privacy: SampleDpConf,
    silo: Silo,
    seed: int,
    groups: Indices | None = None,
) -> Canaries | None:
    """Return canaries for a silo's training split, the same in each round; None where the run asks for
    none at this silo. They take the place of as many examples, at most of half of them; `groups` says
    of which group each example is.

    Raises SiloError MDW-388 where there are too few examples.
    """
    if not privacy.audit or silo.index != 0:
        return None
    count = length(dataset)
    canaries = min(privacy.audit_canaries, count // 2)
    if canaries < FEWEST:
        what = f"{silo.name} has {count} training examples, of which at most half may be canaries."
        hint = f"An audit needs {FEWEST} canaries: give the silos more examples (data.examples)."
        raise SiloError("MDW-388", what, hint)
    key = (silo.name, seed, canaries, groups is not None)
    for known, last, found in _last:
        if last is dataset and known == key:
            return found
    made = _made(dataset, canaries, seed_for(seed, silo.name, 0, "audit"), groups)
    _last[:] = [(key, dataset, made)]
    return made


@contextmanager
def scored(canaries: Canaries | None, loaded: Loaded, silo: Silo, round: int) -> Iterator[None]:
    """Keep by how much what is trained meanwhile lowers the loss of each canary, for the server of the
    simulation; a round that is trained again replaces it.
    """
    if canaries is None:
        yield
        return
    before = losses_of(canaries.examples, loaded.model, loaded.task)
    yield
    scores = before - losses_of(canaries.examples, loaded.model, loaded.task)
    facts = {"coins": canaries.coins.tolist(), "scores": np.nan_to_num(scores).tolist()}
    store = open_store(silo.account)
    store.replace(_name(silo.name, round), json.dumps(FORMAT.stamp | facts).encode())


def losses_of(examples: Sequence[Any], model: nn.Module, task: Task) -> Scores:
    """Return a model's loss of each of some examples; the model stays as it is."""
    device = device_of(model)
    found = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(examples), AT_ONCE):
            collated = (task.collate or default_collate)(list(examples[start : start + AT_ONCE]))
            batch = map_tensors(lambda tensor: tensor.to(device), collated)
            output = map_tensors(full_precision, task.output(model, batch))
            found.append(task.example_losses(output, batch).double().cpu())
    model.train(was_training)
    losses: Scores = torch.cat(found).numpy()
    return losses


def noted(store: Store, silo: str, rounds: int) -> tuple[Coins, Scores, int] | None:
    """Return the coins of a silo's canaries, their scores added up over the first `rounds` rounds,
    and in how many of these it trained; None where it trained in none.

    Raises CheckpointError MDW-546 for what can't be read.
    """
    there = set(store.list(f"{silo}/audit/"))
    names = [name for round in range(1, rounds + 1) if (name := _name(silo, round)) in there]
    found = []
    for name in names:
        raw = FORMAT.loads(store.read(name), name)
        with FORMAT.reading(name):
            coins = np.array(raw["coins"], bool)
            scores = np.array(raw["scores"], np.float64)
            if coins.shape != scores.shape or coins.ndim != 1:
                raise ValueError(f"{coins.shape} coins and {scores.shape} scores")
        found.append((coins, scores))
    if not found:
        return None
    # The coins are those of the run's seed, the same in each round.
    return found[-1][0], np.sum([scores for _, scores in found], axis=0), len(found)


def _name(silo: str, round: int) -> str:
    return f"{silo}/audit/{round:06d}.json"


def _made(dataset: Dataset[Any], canaries: int, seed: int, groups: Indices | None) -> Canaries:
    draws = np.random.default_rng(seed)
    order = draws.permutation(length(dataset))
    donors = [dataset[int(place)] for place in order[-DONORS:]]
    examples = [_canary(dataset[int(place)], donors, draws) for place in order[:canaries]]
    coins = draws.random(canaries) < 0.5
    chosen = np.sort(order[canaries:])
    included = [one for one, coin in zip(examples, coins, strict=True) if coin]
    if groups is not None:
        alone = groups.max() + 1 + np.arange(len(included))
        groups = np.concatenate([groups[chosen], alone])
    return Canaries(examples, coins, Planted(dataset, chosen.tolist(), included), groups)


def _canary(example: Any, donors: list[Any], draws: np.random.Generator) -> Any:
    """Return an example that nobody has, in the place of one; the example itself, where it is no
    (input, target, ...).
    """
    if not isinstance(example, tuple | list) or len(example) < 2:
        return example
    inputs, target, *others = example
    mixed = _mixed(inputs, [donor[0] for donor in donors], draws)
    wrong = [donor[1] for donor in donors if _differs(donor[1], target)]
    chosen = wrong[int(draws.integers(len(wrong)))] if wrong else target
    return (mixed, chosen, *others)


def _mixed(inputs: Any, donors: list[Any], draws: np.random.Generator) -> Any:
    """Return inputs of which each element is that of some donor at the same place."""
    if not isinstance(inputs, Tensor | np.ndarray):
        return inputs
    fitting = [torch.as_tensor(one) for one in donors if np.shape(one) == np.shape(inputs)]
    if not fitting:
        return inputs
    which = torch.from_numpy(draws.integers(len(fitting), size=(1, *inputs.shape)))
    mixed = torch.stack(fitting).gather(0, which).squeeze(0)
    return mixed if isinstance(inputs, Tensor) else mixed.numpy()


def _differs(one: Any, other: Any) -> bool:
    """Return whether one target is another than the other, and of its form."""
    if np.shape(one) != np.shape(other):
        return False
    return not np.array_equal(np.asarray(one), np.asarray(other))
