"""What federating is worth on the known examples: federated, each silo alone, all data pooled.

    python benchmarks/known_examples.py breast_cancer --seeds 10
    python benchmarks/known_examples.py fraud --root creditcard.csv --seeds 5 model=linear
    python benchmarks/known_examples.py adult --root adult.parquet --seeds 10
    python benchmarks/known_examples.py elpv --root elpv/data --seeds 3

Each seed is one run with `run.baseline=all`: every model has the same number of epochs, and is measured by the task's
headline on the same test examples. What follows is added to the run's overrides. A difference is paired by seed; its
interval is Student's, of the seeds alone: how far another seed would move it, not other examples.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

from scipy.stats import t as student

from server.run.result import Baseline
from server.simulation import simulate

CASES = {
    "breast_cancer": [
        "task=breast_cancer",
        "data=column",
        "data.column=mean radius",
        "data.test=0.3",
        "federation.size=3",
        "run.rounds=20",
    ],
    "fraud": ["task=ccfraud", "data.test=0", "federation.size=3", "run.rounds=10"],
    "adult": [
        "task=adult",
        "data=column",
        "data.column=occupation",
        "federation.size=3",
        "run.rounds=10",
        "trainer.batch_size=128",
    ],
    "elpv": ["task=elpv", "data.test=0.2", "run.rounds=15"],
}
"""The federations: who has what, how much is a test, and for how long they train."""
QUIET = ["tracking=off", "simulation.workers=0", "run.baseline=all"]


@dataclass
class Seeds:
    """One case's values of the headline by seed."""

    metric: str = ""
    federated: list[float] = field(default_factory=list)
    pooled: list[float] = field(default_factory=list)
    alone: dict[str, list[float]] = field(default_factory=dict)

    def add(self, metric: str, found: Baseline) -> None:
        self.metric = metric
        assert found.centralised is not None
        self.federated.append(found.federated.union[metric])
        self.pooled.append(found.centralised.union[metric])
        for silo, scores in found.silo_alone.items():
            self.alone.setdefault(silo, []).append(scores.union[metric])

    def median_alone(self) -> list[float]:
        return [statistics.median(values) for values in zip(*self.alone.values(), strict=True)]

    def best_alone(self) -> list[float]:
        return [max(values) for values in zip(*self.alone.values(), strict=True)]


def measured(case: str, root: str, seeds: int, more: list[str]) -> Seeds:
    found = Seeds()
    with tempfile.TemporaryDirectory() as folder:
        where = [f"data.root={root}"] if root else []
        for seed in range(seeds):
            drawn = [f"run.seed={seed}", f"data.seed={seed}", f"run.output={folder}"]
            named = f"run.name={case}-{seed}"
            run = simulate([*CASES[case], *where, *QUIET, *drawn, named, *more])
            assert run.result.baseline is not None
            found.add(next(iter(run.result.shown)), run.result.baseline)
            print(f"seed {seed}: {found.metric} {found.federated[-1]:.4f}", flush=True)
    return found


def mean(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def paired(one: list[float], other: list[float]) -> str:
    differences = [a - b for a, b in zip(one, other, strict=True)]
    middle = statistics.mean(differences)
    if len(differences) < 2:
        return f"{middle:+.3f}"
    half = student.ppf(0.975, len(differences) - 1)
    half *= statistics.stdev(differences) / len(differences) ** 0.5
    return f"{middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f})"


def table(found: Seeds) -> list[str]:
    median = found.median_alone()
    best = found.best_alone()
    rows: list[tuple[str, Any]] = [
        ("federated", mean(found.federated)),
        ("all data pooled", mean(found.pooled)),
        *((f"{silo} alone", mean(values)) for silo, values in found.alone.items()),
        ("federated − pooled", paired(found.federated, found.pooled)),
        ("federated − the median silo alone", paired(found.federated, median)),
        ("federated − the best silo alone", paired(found.federated, best)),
    ]
    head = f"| {found.metric}, {len(found.federated)} seeds | |"
    return [head, "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--root", default="", help="the data, where the task does not bring it")
    parser.add_argument("--seeds", type=int, default=5)
    arguments, more = parser.parse_known_args()
    started = time.monotonic()
    cpu = time.process_time()
    found = measured(arguments.case, arguments.root, arguments.seeds, more)
    print("\n".join(table(found)))
    took = time.monotonic() - started
    print(f"{took:.0f} s, {time.process_time() - cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
