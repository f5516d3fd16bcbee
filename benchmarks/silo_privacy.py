"""What silo-level and local privacy leave of a model, by the number of silos and epsilon.

    python benchmarks/silo_privacy.py --root FOLDER [--silos 10,100] [--epsilon 8,2] [--rounds 20] [--seeds 3]

MNIST over so many silos (iid), a linear model of 7,850 weights, scored on MNIST's own test set, which
no silo has to tell of. The noise is the operating system's, as in a run; the seeds are those of the
first weights and of the partition. Printed are the mean accuracy of the seeds and the spread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server.simulation import simulate

NORM = 0.3
"""To which a change is clipped: about the median of the first rounds without noise."""
KINDS = ("silo_dp", "local_dp")


def accuracy(root: str, silos: int, rounds: int, seed: int, privacy: list[str]) -> float:
    """Return the accuracy of a run's model on MNIST's own test set."""
    with tempfile.TemporaryDirectory() as folder:
        done = simulate(
            [
                "task=mnist",
                f"data.root={root}",
                "data.partition=iid",
                "model=linear",
                "trainer.lr=0.1",
                "strategy.weighting=equal",
                f"federation.size={silos}",
                f"run.rounds={rounds}",
                f"run.seed={seed}",
                f"run.output={folder}",
                "tracking=off",
                "simulation.workers=0",
                *privacy,
            ]
        )
        return done.result.final["central_accuracy"]


def chosen(kind: str, epsilon: float) -> list[str]:
    """Return how a kind of privacy is asked for."""
    return [f"privacy={kind}", f"privacy.epsilon={epsilon:g}", f"privacy.clip_norm={NORM}"]


def main() -> None:
    """Print a line for each number of silos, kind and epsilon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--silos", default="10,100")
    parser.add_argument("--epsilon", default="8,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()
    print("| silos | privacy | epsilon | accuracy | from – to | seconds a run |")
    print("|---:|---|---:|---:|---|---:|")
    for silos in map(int, asked.silos.split(",")):
        settings: list[tuple[str, str, list[str]]] = [("none", "∞", [])]
        for kind in asked.kinds.split(","):
            for epsilon in map(float, asked.epsilon.split(",")):
                settings.append((kind, f"{epsilon:g}", chosen(kind, epsilon)))
        for kind, epsilon, words in settings:
            started = time.perf_counter()
            found = [
                accuracy(asked.root, silos, asked.rounds, seed, words)
                for seed in range(asked.seeds)
            ]
            took = (time.perf_counter() - started) / asked.seeds
            spread = f"{min(found):.3f} – {max(found):.3f}"
            mean = statistics.mean(found)
            print(
                f"| {silos} | {kind} | {epsilon} | {mean:.3f} | {spread} | {took:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
