"""What an attacker gets of a silo's examples, by how the silo trains.

    python benchmarks/attacks.py [--adult FILE] [--part reconstruction,membership] [--models 32]

On digits, and on the census rows of adult where FILE names its table (as a model's first layer gets
them). *Reconstruction*: a lying server sends a model whose first layer is a trap, for one step over all
rows; it reads single rows out of an honest model's gradient; and it searches for a batch that has the
gradient it saw. *Membership*: the likelihood ratio attack with `--models` models, each attacked with the
others as its shadow models. It prints a line for each set and way of training: none of it, clipping
alone, and privacy=sample_dp at several epsilons (delta 1e-5), with what an owner's closed policy says
before anything is trained.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import attack_membership as membership
from benchmarks import attack_reconstruction as reconstruction
from benchmarks.attack_training import Rows, refused, sets, ways

RECONSTRUCTED = (100.0, 8.0, 4.0, 1.0)
INFERRED = (8.0, 4.0, 1.0)
LEARNED = ("trainer.lr=0.2", "trainer.batch_size=64", "trainer.epochs=60")
"""Of the models whose members are looked for: long enough to know their examples by heart."""
HEADS = {
    "reconstruction": (
        "| set | way | given back by the trap | single rows given back | their PSNR, dB"
        " | PSNR of a batch of 8 | of 32 | CPU s |\n|---|---|---|---|---|---|---|---|"
    ),
    "membership": (
        "| set | way | AUC | TPR at 1 % FPR | accuracy | CPU s |\n|---|---|---|---|---|---|"
    ),
}


def reconstruct(task: Rows, units: int) -> None:
    """Print what is given back of a set, a line a way."""
    for name, train in ways(RECONSTRUCTED).items():
        started = time.process_time()
        torch.manual_seed(0)
        trap = reconstruction.trapped(task, train, units)
        share, ratio = reconstruction.single(task, train, 32)
        batches = [reconstruction.batch(task, train, size) for size in (8, 32)]
        seconds = time.process_time() - started
        told = " | ".join(f"{one:.1f}" for one in (ratio, *batches))
        print(
            f"| {task.name} | {name} | {trap:.1%} | {share:.0%} | {told} | {seconds:.0f} |",
            flush=True,
        )
    print(
        f"| {task.name} | an owner's closed policy | refused: {refused()} | | | | | |", flush=True
    )


def infer(task: Rows, models: int) -> None:
    """Print how well members of a set are told from others, a line a way."""
    for name, train in ways(INFERRED).items():
        started = time.process_time()
        found = membership.attacked(task, train, LEARNED, models)
        seconds = time.process_time() - started
        told = f"{found.auc:.3f} | {found.at_few_alarms:.1%} | {found.accuracy:.3f}"
        print(f"| {task.name} | {name} | {told} | {seconds:.0f} |", flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="What an attacker gets of a silo's examples.")
    parser.add_argument("--adult", type=Path)
    parser.add_argument("--part", default="reconstruction,membership")
    parser.add_argument("--units", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=1438, help="of a set to reconstruct")
    parser.add_argument("--pool", type=int, default=600, help="of which each model has half")
    parser.add_argument("--models", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    for part in asked.part.split(","):
        print(HEADS[part])
        most = asked.rows if part == "reconstruction" else asked.pool
        for task in sets(asked.adult, most):
            if part == "reconstruction":
                reconstruct(task, asked.units)
            else:
                infer(task, asked.models)
        print()
    cpu = time.process_time()
    print(f"{time.perf_counter() - started:.0f} s in all, {cpu:.0f} of a CPU")


if __name__ == "__main__":
    main()
