"""What Meadow does in place of torch's own, beside it: max-pooling without a gradient, SGD's step.

    python benchmarks/kernels.py

CPU time of one thread, the two sides in turn, medians; and whether both gave the same bits.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.work import NiidCnn
from client.malloc import keep_activations_mapped
from client.optimizer import optimizer_of
from client.pooling import MaxPool2
from conf.schema import TrainerConf

TIMES = 9
STEPS = 40


def cpu(work: Callable[[], object]) -> float:
    """Return the processor time of some work, in microseconds."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e6


def pooling(shape: tuple[int, ...]) -> None:
    """Compare the pooling of a batch."""
    batch = torch.relu(torch.randn(shape))
    sides = (nn.MaxPool2d(2), MaxPool2())
    with torch.inference_mode():
        same = torch.equal(*(side(batch) for side in sides))
        times = [[cpu(lambda side=side: side(batch)) for side in sides] for _ in range(TIMES)]
    row(f"max-pooling of {' x '.join(map(str, shape))}, no gradient", times, same)


def stepping() -> None:
    """Compare SGD's step between the forward and backward passes of a small CNN."""
    images = torch.rand(10, 1, 28, 28)
    labels = torch.randint(0, 10, (10,))
    first = NiidCnn()
    times, models = [], []
    for _ in range(TIMES):
        pair = []
        models = [copy.deepcopy(first) for _ in range(2)]
        stock = torch.optim.SGD(models[0].parameters(), 0.01, momentum=0.9, foreach=True)
        ours = optimizer_of(models[1], TrainerConf(optimizer="sgd", lr=0.01, momentum=0.9))
        for model, optimizer in zip(models, (stock, ours), strict=True):
            spent = 0.0
            for _ in range(STEPS):
                functional.cross_entropy(model(images), labels).backward()
                spent += cpu(optimizer.step) + cpu(optimizer.zero_grad)
            pair.append(spent / STEPS)
        times.append(pair)
    states: list[list[Tensor]] = [list(model.state_dict().values()) for model in models]
    same = all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    row("a step of SGD with momentum, 10 arrays", times, same)


def row(what: str, times: list[list[float]], same: bool) -> None:
    """Print a row of the table."""
    theirs, ours = (statistics.median(side) for side in zip(*times, strict=True))
    bits = "the same" if same else "OTHERS"
    print(f"| {what} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} | {bits} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_activations_mapped()
    print("| what | torch, µs | Meadow, µs | ratio | bits |")
    print("|---|---|---|---|---|")
    pooling((256, 6, 24, 24))
    pooling((256, 16, 8, 8))
    stepping()
