"""The same work with no framework at all: two processes train the silos of a round, one adds up.

What any framework adds comes on top of this: `benchmarks/scale.py` takes it as the floor.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from work import NiidCnn, Work, accuracy, mnist, parts, say, trained

PROCESSES = 2
State = dict[str, torch.Tensor]


def train_silos(pipe: Connection, work: Work) -> None:
    """Be a process: train the silos that are named, and return the sum of examples times weights."""
    torch.set_num_threads(1)
    x, y = mnist(work.root, "train")
    of = parts(work.examples, work.silos)
    model = NiidCnn()
    while (asked := pipe.recv()) is not None:
        weights, silos = asked
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for silo in silos:
            model.load_state_dict(weights)
            mine = of[silo]
            trained(model, x[mine], y[mine], work)
            for name, value in model.state_dict().items():
                total[name] += len(mine) * value
        pipe.send(({n: v.numpy() for n, v in total.items()}, sum(len(of[s]) for s in silos)))


def main() -> None:
    """Do one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    Work.add_to(parser)
    work = Work.of(parser.parse_args())
    torch.manual_seed(work.seed)
    torch.set_num_threads(1)
    start = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(PROCESSES):
        ours, theirs = start.Pipe()
        start.Process(target=train_silos, args=(theirs, work), daemon=True).start()
        pipes.append(ours)
    drawn = np.random.default_rng(work.seed)
    model = NiidCnn()
    say("begin")
    for _ in range(work.rounds):
        weights: State = model.state_dict()
        cohort = drawn.choice(work.silos, work.cohort or work.silos, replace=False).tolist()
        for at, pipe in enumerate(pipes):
            pipe.send((weights, cohort[at::PROCESSES]))
        sums, counts = zip(*(pipe.recv() for pipe in pipes), strict=True)
        mean = {n: torch.from_numpy(sum(s[n] for s in sums) / sum(counts)) for n in weights}
        model.load_state_dict(mean)
        say("round")
    for pipe in pipes:
        pipe.send(None)
    say("accuracy", accuracy(model, *mnist(work.root, "t10k"), work))


if __name__ == "__main__":
    main()
