"""What privacy=sample_dp costs in accuracy: each set at several epsilons, three seeds, as a run has it.

    python benchmarks/private_accuracy.py --mnist FOLDER --adult FILE --ccfraud FILE [--seeds 1,2,3]
    python benchmarks/private_accuracy.py --sets adult --adult FILE --search
    python benchmarks/private_accuracy.py --sets digits,mnist --mnist FOLDER --metrics 0.5

Each cell is `meadow simulate` of three silos in this process, scored on test examples that no silo
trains on; delta is 1e-5, epsilon that of the whole run, and what it has spent is read from its result.
The noise has the distribution of the real thing and a seed (`privacy.test_seed`), so that a cell can
be had again and the silos may tell metrics. `--search` is how the words of `SETS` were found: one seed,
epsilon 4, each pair of a learning rate and a batch size. Sets whose data is not named are left out.

`--metrics` is how far metrics with noise are from the truth: ten silos train the same model twice, once
with metrics as they are and once with noise that costs so much, and each accuracy of all silos that is
told (of rounds and of the test) is compared.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server.simulation import simulate

EPSILONS = (None, 8.0, 4.0, 1.0)
"""None is a run without privacy, which epsilon calls infinite."""
ALL = (
    "federation.size=3",
    "strategy.weighting=equal",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
)


TEN = (
    "federation.size=10",
    "run.rounds=10",
    "data.examples=null",
    "privacy=sample_dp",
    "privacy.epsilon=null",
    "privacy.noise_multiplier=1.5",
)
"""Ten silos whose training has the same noise, whatever their metrics cost."""
HEADS = {
    "search": "| set | learning rate | batch | score | CPU s |\n|---|---|---|---|---|",
    "metrics": "| set | evaluations | compared | median miss | root mean square | said | within 2 of it |"
    "\n|---|---|---|---|---|---|---|",
    "epsilons": "| set | epsilon | spent | score | CPU s |\n|---|---|---|---|---|",
}


@dataclass(frozen=True)
class Set:
    """How a set is trained: what both ways share, and each way's own learning rate and batch."""

    words: tuple[str, ...]
    metric: str
    plain: tuple[str, ...]
    private: tuple[str, ...]
    rates: tuple[float, ...]
    batches: tuple[int, ...]


SETS = {
    "digits": Set(
        ("task=digits", "model=mlp", "run.rounds=10", "trainer.epochs=3"),
        "accuracy",
        ("trainer.lr=0.1", "trainer.batch_size=32"),
        ("trainer.lr=0.25", "trainer.batch_size=128"),
        (0.1, 0.25, 0.5, 1.0),
        (64, 128, 240),
    ),
    "mnist": Set(
        ("task=mnist", "data.examples=10000", "model=linear", "run.rounds=5", "trainer.epochs=1"),
        "central_accuracy",
        ("trainer.lr=0.05", "trainer.batch_size=64"),
        ("trainer.lr=0.25", "trainer.batch_size=256"),
        (0.1, 0.25, 0.5),
        (256,),
    ),
    "adult": Set(
        ("task=adult", "data.examples=15000", "run.rounds=5", "trainer.epochs=1"),
        "auroc",
        ("trainer.lr=0.05", "trainer.batch_size=64"),
        ("trainer.lr=0.25", "trainer.batch_size=512"),
        (0.1, 0.25, 0.5),
        (512,),
    ),
    "ccfraud": Set(
        ("task=ccfraud", "data.examples=60000", "run.rounds=5", "trainer.epochs=2"),
        "central_auprc",
        ("trainer.lr=0.1", "trainer.batch_size=256"),
        ("trainer.lr=4", "trainer.batch_size=512"),
        (0.25, 1.0, 4.0),
        (512, 2048),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run: what it scored, what it spent, and how long it took."""

    score: float
    spent: float
    seconds: float


def cell(words: Sequence[str], metric: str, epsilon: float | None, seed: int) -> Cell:
    """Run a federation and return what it came to."""
    private = [] if epsilon is None else ["privacy=sample_dp", f"privacy.epsilon={epsilon}"]
    if private:
        private += ["privacy.delta=1e-5", f"privacy.test_seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        done = simulate([*ALL, *words, *private, f"run.seed={seed}", f"run.output={folder}"])
        seconds = time.process_time() - started
    silos = done.result.privacy.get("silos", {})
    spent = max((float(one["epsilon"]) for one in silos.values()), default=float("inf"))
    return Cell(done.result.final[metric], spent, seconds)


def rows(name: str, one: Set, root: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a set, one an epsilon."""
    for epsilon in EPSILONS:
        own = one.plain if epsilon is None else one.private
        words = [*one.words, *own, *root]
        cells = [cell(words, one.metric, epsilon, seed) for seed in seeds]
        scores = [one.score for one in cells]
        mean = statistics.mean(scores)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        spent = max(one.spent for one in cells)
        asked = "∞" if epsilon is None else f"{epsilon:g}"
        took = statistics.median(one.seconds for one in cells)
        yield (
            f"| {name} ({one.metric.removeprefix('central_')}) | {asked} | {spent:.3g} |"
            f" {mean:.4f} ± {spread:.4f} | {took:.1f} |"
        )


def searched(name: str, one: Set, root: Sequence[str]) -> Iterator[str]:
    """Yield a line for each pair of a learning rate and a batch size, at epsilon 4."""
    for rate, batch in itertools.product(one.rates, one.batches):
        own = [f"trainer.lr={rate}", f"trainer.batch_size={batch}"]
        found = cell([*one.words, *own, *root], one.metric, 4.0, 0)
        yield f"| {name} | {rate:g} | {batch} | {found.score:.4f} | {found.seconds:.1f} |"


def noised(
    name: str, one: Set, root: Sequence[str], seeds: Sequence[int], part: float
) -> Iterator[str]:
    """Yield a line for each number of evaluations that a run tells: how far they are from the truth."""
    for every in (1, 5, 10):
        misses: list[float] = []
        said: list[float] = []
        for seed in seeds:
            words = [*one.words, *one.private, *root, *TEN, f"run.seed={seed}"]
            words += [f"privacy.test_seed={seed}", f"privacy.metrics_every={every}"]
            exact = accuracies(words)
            for where, (value, spread) in accuracies(
                [*words, f"privacy.metrics_epsilon={part}"]
            ).items():
                misses.append(abs(value - exact[where][0]))
                said.append(spread)
        root_mean = statistics.mean(miss**2 for miss in misses) ** 0.5
        within = statistics.mean(m <= 2 * s for m, s in zip(misses, said, strict=True))
        yield (
            f"| {name} | {10 // every + 1} | {len(misses)} | {statistics.median(misses):.4f} |"
            f" {root_mean:.4f} | {statistics.mean(said):.4f} | {within:.0%} |"
        )


def accuracies(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Run ten silos and return each accuracy of all of them that is told, with its deviation."""
    with tempfile.TemporaryDirectory() as folder:
        done = simulate([*ALL, *words, f"run.output={folder}"])
        told = {f"round {one.round}": one.aggregate for one in done.rounds}
    told["test"] = done.result.final
    return {
        where: (metrics["accuracy"], metrics.get("accuracy_noise", 0.0))
        for where, metrics in told.items()
        if "accuracy" in metrics
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="What sample-level privacy costs in accuracy.")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--metrics", type=float, default=0.0)
    for name in ("mnist", "adult", "ccfraud"):
        parser.add_argument(f"--{name}", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    print(HEADS["search" if asked.search else "metrics" if asked.metrics else "epsilons"])
    for name in asked.sets.split(","):
        where = getattr(asked, name, None)
        if name != "digits" and where is None:
            continue
        root = [] if where is None else [f"data.root={where}"]
        lines = rows(name, SETS[name], root, seeds)
        if asked.search:
            lines = searched(name, SETS[name], root)
        elif asked.metrics:
            lines = noised(name, SETS[name], root, seeds, asked.metrics)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
