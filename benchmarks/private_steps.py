"""What a step under privacy=sample_dp costs beside a plain one, by model.

    python benchmarks/private_steps.py [--device cuda] [--turns 5] [--batch 32]

Both loops train a round of one epoch on the same made-up images (1,024 in draws of `--batch`), in turn
in one process; what is printed are medians of milliseconds a step and of the turns' ratios. The model
is warm, and what a round costs besides (the account, the accountant) is left out: a step is what grows
with the data.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client import loop
from client.models import build_model
from client.privacy import sample_dp
from client.privacy.accountant import Release
from client.tasks.base import Contract, Data
from client.tasks.kinds.classification import Classification
from conf.compose import compose
from conf.schema import RunScope, Silo
from strategies.silo_half import SiloHalf

EXAMPLES = 1024
NORTH = Silo("north")
MODELS = {
    "mlp": (["model=mlp"], (1, 28, 28)),
    "cnn": (["model=cnn"], (1, 28, 28)),
    "resnet18": (["model=resnet18", "model.norm=group"], (3, 32, 32)),
}


class Images(Classification):
    """Made-up images of ten classes."""

    name = "images"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.contract = Contract(shape, tuple("0123456789"))

    def data(self, silo: Silo) -> Data:
        """There is no silo."""
        raise NotImplementedError


def scope(words: list[str], device: str, batch: int) -> RunScope:
    """Return a private run as a silo carries it out."""
    own = [f"trainer.batch_size={batch}", "strategy.weighting=equal", "trainer.lr=0.01"]
    conf = compose(["privacy=sample_dp", *own, *words])
    names = [field.name for field in dataclasses.fields(RunScope)]
    run = RunScope(**{name: getattr(conf, name) for name in names})
    trainer = dataclasses.replace(
        run.trainer, precision="fp32", deterministic="auto", device=device, channels_last=False
    )
    return dataclasses.replace(run, trainer=trainer)


def waited(device: str) -> float:
    """Return the time when the device has done all that it was asked."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(turn: Callable[[], object], device: str) -> float:
    """Return how long a turn takes."""
    started = waited(device)
    turn()
    return waited(device) - started


def row(name: str, device: str, batch: int, turns: int) -> str:
    """Measure one model and return its line."""
    words, shape = MODELS[name]
    run = scope(words, device, batch)
    task = Images(shape)
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(EXAMPLES, *shape, generator=draws)
    data = TensorDataset(images, torch.randint(10, (EXAMPLES,), generator=draws))
    plan = sample_dp.plan_for(run, data)
    release = Release(plan.rate, 1.0, plan.steps)
    model: nn.Module = loop.prepare(build_model(run.model, task, seed=1), run.trainer)

    def plainly() -> None:
        loop.train(model, data, task, run.trainer, seed=1)

    def privately() -> None:
        sample_dp.train(model, data, task, run, SiloHalf(), release, silo=NORTH, round=1)

    for turn in (plainly, privately):
        turn()
    pairs = []
    for number in range(turns):
        both = {}
        for turn in (plainly, privately) if number % 2 else (privately, plainly):
            both[turn.__name__] = seconds(turn, device)
        pairs.append((both["plainly"], both["privately"]))
    plain = statistics.median(a for a, _ in pairs) / plan.steps * 1000
    private = statistics.median(b for _, b in pairs) / plan.steps * 1000
    ratio = statistics.median(b / a for a, b in pairs)
    return f"| {name} | {plain:.2f} | {private:.2f} | {ratio:.2f} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="What a private step costs beside a plain one.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--models", default=",".join(MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | plain, ms a step | private, ms a step | ratio |\n|---|---|---|---|")
    for name in asked.models.split(","):
        print(row(name, asked.device, asked.batch, asked.turns), flush=True)


if __name__ == "__main__":
    main()
