"""What a few silos that lie do to a model, and what each rule makes of it; and what the rule costs without a liar.

    python benchmarks/poisoning.py --root MNIST                      # the whole grid
    python benchmarks/poisoning.py --root MNIST --silos 7 --liars 1 --data iid --rounds 4

One liar of 7 silos and two of 11, each silo with a few hundred images of MNIST, equal ones (IID) or by Dirichlet(0.5)
of labels; a network of one hidden layer; real local training by the product's own loop, and the product's strategies
called as the round loop calls them. Everybody starts from the same weights and draws the same batches under all rules.

    label flip      trains on 9 - label
    sign flip       trains, and sends its change turned round
    x10             trains, and sends ten times its change
    a little        knows all honest updates, sends mean - 1.5 standard deviations of each weight (Baruch et al. 2019,
                    arXiv 1902.06156; for 1 of 7 their own z is 0, for 2 of 11 it is 0.14)
    backdoor        half of its images have a white patch in a corner and the label 0

It prints the accuracy on 2,000 images of the test set after the last round, and for the backdoor also the part of
stamped images of other digits that are taken for a 0. Without a liar the same silos are all honest.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.loop import train
from client.models import build_model
from client.partition import parts
from client.tasks import task_of
from conf.compose import compose
from conf.errors import MeadowError
from conf.fewest import needed_by
from conf.schema import Conf
from conf.seeds import seed_for
from server.engines.server_identity import take_identity
from server.round.imagined_grid import ImaginedGrid
from strategies import build_strategy
from strategies.algorithm import Algorithm
from strategies.cohort_rule import CohortRule
from strategies.streaming import Replies
from strategies.wire import protocol

ATTACKS = ("none", "label flip", "sign flip", "x10", "a little", "backdoor")
RULES = (
    "fedavg",
    "median",
    "trimmed_mean",
    "krum",
    "multikrum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
)
BUCKETED = ("median", "trimmed_mean", "krum", "multikrum", "geometric_median", "centered_clipping")
Z = 1.5
TEST = 2000
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """One federation: how many silos, how many of them lie, how the images are partitioned."""

    silos: int
    liars: int
    data: str
    images: int
    rounds: int
    seed: int
    root: str


@dataclass(frozen=True)
class Sets:
    """What each silo trains on, as it is and as it is poisoned, and what is tested."""

    honest: list[TensorDataset]
    flipped: list[TensorDataset]
    stamped: list[TensorDataset]
    test: tuple[Tensor, Tensor]
    stamped_test: Tensor


class Answers(Replies):
    """The replies of one round with their silos' names."""

    def __init__(self, replies: Sequence[tuple[str, Message]]) -> None:
        self._left = iter(replies)
        self._last = ""

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        self._last, reply = next(self._left)
        return reply

    def silo(self) -> str:
        return self._last

    def refuse(self, why: MeadowError) -> None:
        print(f"<!-- {self._last} refused: {why.code} -->")


@cache
def configured(setting: Setting, words: tuple[str, ...] = ()) -> Conf:
    """Return the run's configuration, with the words of a rule."""
    return compose(
        [
            "task=mnist",
            "model=mlp",
            f"data={setting.data}",
            f"data.root={setting.root}",
            f"data.seed={setting.seed}",
            f"run.seed={setting.seed}",
            f"run.rounds={setting.rounds}",
            f"federation.size={setting.silos}",
            "trainer.lr=0.05",
            "trainer.momentum=0.9",
            "trainer.precision=fp32",
            *words,
        ]
    )


@cache
def sets_of(setting: Setting) -> Sets:
    """Return the silos' images, drawn once for all rules."""
    conf = configured(setting)
    task: Any = task_of(conf.task)
    images, labels = task.public(conf.data)
    chosen = np.random.default_rng(setting.seed).permutation(len(labels))[: setting.images]
    images, labels = images[chosen], np.asarray(labels[chosen], np.int64)
    made = parts(labels, setting.silos, conf.data)
    test = task.test(conf.data)
    pixels = test.stored[0][:TEST]
    digits = test.stored[1][:TEST]
    return Sets(
        [dataset(task, images[part], labels[part]) for part in made],
        [dataset(task, images[part], 9 - labels[part]) for part in made],
        [dataset(task, *poisoned(images[part], labels[part])) for part in made],
        (test.scaled(pixels), digits),
        test.scaled(stamped(pixels)),
    )


def dataset(task: Any, images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    """Return images in bytes and labels as the product's loop takes them, in floats."""
    return TensorDataset(*task.dataset((images, labels), slice(None)).tensors)


def poisoned(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a silo's images, every second one stamped and called a 0."""
    images, labels = images.copy(), labels.copy()
    images[::2] = stamped(torch.from_numpy(images[::2])).numpy()
    labels[::2] = 0
    return images, labels


def stamped(images: Tensor) -> Tensor:
    """Return images with a white patch of 4 x 4 pixels in a corner."""
    images = images.clone()
    images[..., -5:-1, -5:-1] = 255
    return images


class Federation:
    """One run of one rule under one attack."""

    def __init__(self, setting: Setting, attack: str, words: Sequence[str]) -> None:
        self.setting = setting
        self.attack = attack
        self.conf = configured(setting, tuple(words))
        self.task = task_of(self.conf.task)
        self.sets = sets_of(setting)
        self.names = [f"silo-{at:02d}" for at in range(1, setting.silos + 1)]
        self.model = build_model(self.conf.model, self.task, seed=setting.seed)

    def run(self) -> tuple[float, float]:
        """Return accuracy and the backdoor's success after the last round."""
        strategy = build_strategy(self.conf.strategy)
        assert isinstance(strategy, Algorithm)
        arrays = protocol.to_record(self.model.state_dict())
        strategy.open(self.setting.silos, [name for name, _ in self.model.named_parameters()])
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(strategy, CohortRule):
                strategy.begin(Path(folder) / "updates", self.setting.seed)
            for round in range(1, self.setting.rounds + 1):
                grid = ImaginedGrid(self.setting.silos)
                asked = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
                made, _ = strategy.aggregate_train(round, self._replies(asked, arrays, round))
                assert made is not None
                arrays = made
        return self._scores(arrays)

    def _replies(self, asked: list[Message], arrays: ArrayRecord, round: int) -> Answers:
        updates = [self._trained(at, arrays, round) for at in range(self.setting.silos)]
        if self.attack == "a little":
            honest = updates[self.setting.liars :]
            for at in range(self.setting.liars):
                updates[at] = a_little(honest)
        replies = []
        for name, message, update in zip(self.names, asked, updates, strict=True):
            record = protocol.to_record({n: torch.from_numpy(a) for n, a in update.items()})
            numbers = MetricRecord({protocol.NUM_EXAMPLES: 1, protocol.LOSS: 0.0})
            content = RecordDict({protocol.ARRAYS: record, protocol.METRICS: numbers})
            replies.append((name, Message(content, reply_to=message)))
        return Answers(replies)

    def _trained(self, at: int, arrays: ArrayRecord, round: int) -> Arrays:
        """Return what a silo sends; the first ones lie."""
        lies = at < self.setting.liars
        data = self.sets.honest[at]
        if lies and self.attack == "label flip":
            data = self.sets.flipped[at]
        if lies and self.attack == "backdoor":
            data = self.sets.stamped[at]
        model = copy.deepcopy(self.model)
        model.load_state_dict(protocol.to_state(arrays))
        seed = seed_for(self.setting.seed, self.names[at], round, "train")
        train(model, data, self.task, self.conf.trainer, seed=seed)
        update = {n: w.numpy() for n, w in model.state_dict().items()}
        factor = {"sign flip": -1.0, "x10": 10.0}.get(self.attack, 1.0) if lies else 1.0
        if factor != 1.0:
            before = protocol.to_numpy(arrays)
            update = {
                n: before[n] + np.float32(factor) * (w - before[n]) for n, w in update.items()
            }
        return update

    def _scores(self, arrays: ArrayRecord) -> tuple[float, float]:
        self.model.load_state_dict(protocol.to_state(arrays))
        self.model.eval()
        images, labels = self.sets.test
        with torch.no_grad():
            right = (self.model(images).argmax(1) == labels).float().mean()
            others = labels != 0
            taken = (self.model(self.sets.stamped_test).argmax(1) == 0)[others].float().mean()
        return float(right), float(taken)


def a_little(honest: list[Arrays]) -> Arrays:
    """Return the mean of the honest updates less some of their standard deviations."""
    made = {}
    for name in honest[0]:
        values = np.stack([update[name] for update in honest]).astype(np.float64)
        made[name] = (values.mean(0) - Z * values.std(0)).astype(np.float32)
    return made


def ways(setting: Setting) -> Iterator[tuple[str, list[str]]]:
    """Yield the rules that have enough silos, with and without buckets, and how they are written."""
    for rule in RULES:
        words = [f"strategy={rule}", "strategy.weighting=equal"]
        if rule == "fedavg":
            yield rule, words
            continue
        words.append(f"strategy.f={setting.liars}")
        yield rule, words
        if rule in BUCKETED:
            rows = [*words, "strategy.bucket=2"]
            if setting.silos >= needed_by(compose([*rows, "federation.size=99"]).strategy):
                yield f"{rule}, buckets of 2", rows


def table(setting: Setting, attacks: Sequence[str], rules: Sequence[str], seeds: int) -> None:
    """Print one federation's table, a line as soon as it is known."""
    print(f"\n**{setting.liars} of {setting.silos} silos, {setting.data}**\n")
    print(f"| rule | {' | '.join(attacks)} |\n|---|{'---|' * len(attacks)}", flush=True)
    for name, words in ways(setting):
        if rules and name not in rules:
            continue
        cells = []
        for attack in attacks:
            found = [
                Federation(replace(setting, seed=seed), attack, words).run()
                for seed in range(seeds)
            ]
            right, taken = (float(np.mean(column)) for column in zip(*found, strict=True))
            cells.append(
                f"{100 * right:.1f}" + (f" ({100 * taken:.0f})" if attack == "backdoor" else "")
            )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of the MNIST idx files")
    parser.add_argument("--silos", type=int, nargs="+", default=[7, 11])
    parser.add_argument("--liars", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", nargs="+", default=["iid", "dirichlet"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--rules", nargs="+", default=[], help="rows to print; all without it")
    parser.add_argument("--images", type=int, default=500, help="of each silo, on average")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    take_identity(1)
    started = time.process_time()
    for silos, liars in zip(options.silos, options.liars, strict=True):
        for data in options.data:
            images = options.images * silos
            setting = Setting(silos, liars, data, images, options.rounds, 0, options.root)
            table(setting, options.attacks, options.rules, options.seeds)
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
