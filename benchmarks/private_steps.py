"""What a step under privacy=sample_dp costs beside a plain one, by model, and by Opacus' other ways.

    python benchmarks/private_steps.py [--device cuda] [--turns 3] [--batch 32] [--models mlp,cnn]

All train on the same made-up images in batches of `--batch` on average, in turn in one process; what
is printed are medians of milliseconds a step (of a CPU: of its time), and of the turns' ratios to the
plain loop. *sample_dp* is the product's own loop (`client.privacy.sample_dp`); the other columns are a
bare loop around each of Opacus' modes (`opacus_modes.py`), without draws, schedule or checks. Models are
warm, and what a round costs besides (the account, the accountant) is left out: a step is what grows with
the data. MiB is what the gradients of a batch's examples take, which all modes but ghost hold.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.opacus_modes import MODES, step_of
from client import loop
from client.models import build_model
from client.privacy import sample_dp
from client.privacy.accountant import Release
from client.tasks.base import Contract, Data
from client.tasks.kinds.classification import Classification
from conf.compose import compose
from conf.schema import RunScope, Silo
from strategies.silo_half import SiloHalf

NORTH = Silo("north")
LR = 0.01
MODELS = {
    "mlp": (["model=mlp"], (1, 28, 28), 1024),
    "cnn": (["model=cnn"], (1, 28, 28), 1024),
    "resnet18": (["model=resnet18", "model.norm=group"], (3, 32, 32), 64),
}
"""Each with its images' shape and how many of them there are."""


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
    own = [f"trainer.batch_size={batch}", "strategy.weighting=equal", f"trainer.lr={LR}"]
    conf = compose(["privacy=sample_dp", *own, *words])
    names = [field.name for field in dataclasses.fields(RunScope)]
    run = RunScope(**{name: getattr(conf, name) for name in names})
    trainer = dataclasses.replace(
        run.trainer, precision="fp32", deterministic="auto", device=device, channels_last=False
    )
    return dataclasses.replace(run, trainer=trainer)


def waited(device: str) -> float:
    """Return the time when the device has done all that it was asked; on a CPU what this process has
    used of it, which others beside it do not change much.
    """
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(turn: Callable[[], object], device: str) -> float:
    """Return how long a turn takes."""
    started = waited(device)
    turn()
    return waited(device) - started


def turns_of(
    run: RunScope, model: nn.Module, task: Images, data: TensorDataset, batch: int
) -> dict[str, Callable[[], None]]:
    """Return a turn over all images for each way of training."""
    plan = sample_dp.plan_for(run, data)
    release = Release(plan.rate, 1.0, plan.steps)

    def plainly() -> None:
        loop.train(model, data, task, run.trainer, seed=1)

    def privately() -> None:
        sample_dp.train(model, data, task, run, SiloHalf(), release, silo=NORTH, round=1)

    def by(mode: str) -> Callable[[], None]:
        step = step_of(mode, copy.deepcopy(model), batch, LR)
        device = next(model.parameters()).device
        parts = [tensor.to(device).split(batch) for tensor in data.tensors]

        def turn() -> None:
            for images, labels in zip(*parts, strict=True):
                step(images, labels)

        return turn

    return {"plain": plainly, "sample_dp": privately} | {mode: by(mode) for mode in MODES}


def row(name: str, device: str, batch: int, turns: int) -> str:
    """Measure one model and return its line."""
    words, shape, count = MODELS[name]
    run = scope(words, device, batch)
    task = Images(shape)
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(count, *shape, generator=draws)
    data = TensorDataset(images, torch.randint(10, (count,), generator=draws))
    model: nn.Module = loop.prepare(build_model(run.model, task, seed=1), run.trainer)
    ways = turns_of(run, model, task, data, batch)
    for turn in ways.values():
        turn()
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(turns):
        # Each way is first and last as often: a neighbour's load hits all of them.
        order = list(ways) if number % 2 else list(ways)[::-1]
        for way in order:
            took[way].append(seconds(ways[way], device) / (count // batch) * 1000)
    cells = [f"{statistics.median(took['plain']):.2f}"]
    for way in list(ways)[1:]:
        ratio = statistics.median(b / a for a, b in zip(took["plain"], took[way], strict=True))
        cells.append(f"{statistics.median(took[way]):.2f} ({ratio:.1f})")
    held = sum(p.numel() for p in model.parameters()) * 4 * batch / 2**20
    return f"| {name} | {' | '.join(cells)} | {held:,.0f} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="What a private step costs beside a plain one.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--models", default=",".join(MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = ("model", "plain, ms a step", "sample_dp (ratio)", *MODES, "MiB of gradients")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for name in asked.models.split(","):
        print(row(name, asked.device, asked.batch, asked.turns), flush=True)


if __name__ == "__main__":
    main()
