"""What a step under privacy=sample_dp costs beside a plain one, by model, and by Opacus' other ways.

    python benchmarks/private_steps.py [--device cuda] [--turns 3] [--batch 32] [--models mlp,cnn]
    python benchmarks/private_steps.py --memory [--batch 32] [--models mlp_wide,transformer]

All train on the same made-up images in batches of `--batch` on average, in turn in one process; what
is printed are medians of milliseconds a step (of a CPU: of its time), and of the turns' ratios to the
plain loop. *hooks* and *ghost* are the product's own loop (`client.privacy.sample_dp`) with each
`privacy.gradients`; the other columns are a bare loop around each of Opacus' modes (`opacus_modes.py`),
without draws, schedule or checks. Models are warm, and what a round costs besides (the account, the
accountant) is left out: a step is what grows with the data. MiB is what the gradients of a batch's
examples take.

`--memory` prints by how much each way's process grows over what it was with its model and images, at
most, in a process of its own for each, and the same milliseconds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import resource
import statistics
import subprocess
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
    "mlp_wide": (["model=mlp", "model.hidden=[2048,2048]"], (1, 28, 28), 256),
    "transformer": ([], (1, 64, 256), 128),
}
"""Each with its images' shape and how many of them there are."""
OWN = ("plain", "hooks", "ghost")
"""The ways of the product."""


class Block(nn.Module):
    """Attention and a wide layer over a sequence (n, t, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of the same shape."""
        seen = self.first(rows)
        by_heads = (
            layer(seen).unflatten(2, (4, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        mixed = nn.functional.scaled_dot_product_attention(*by_heads).transpose(1, 2).flatten(2)
        rows = rows + self.out(mixed)
        summed: torch.Tensor = rows + self.wide(self.second(rows))
        return summed


class Transformer(nn.Module):
    """Four blocks over the lines of an image, and a class of their mean: 3.2 million weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.last = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images (n, 1, t, d)."""
        logits: torch.Tensor = self.last(self.blocks(images.squeeze(1)).mean(1))
        return logits


def model_of(name: str, run: RunScope, task: Images) -> nn.Module:
    """Return a new model."""
    torch.manual_seed(1)
    if name == "transformer":
        return Transformer(MODELS[name][1][2])
    return build_model(run.model, task, seed=1)


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
    run: RunScope,
    model: nn.Module,
    task: Images,
    data: TensorDataset,
    batch: int,
    *,
    only_own: bool = False,
) -> dict[str, Callable[[], None]]:
    """Return a turn over all images for each way of training."""
    plan = sample_dp.plan_for(run, data)
    release = Release(plan.rate, 1.0, plan.steps)

    def plainly() -> None:
        loop.train(model, data, task, run.trainer, seed=1)

    def privately(how: str) -> Callable[[], None]:
        private = dataclasses.replace(run.privacy, gradients=how)  # type: ignore[call-arg]
        asked = dataclasses.replace(run, privacy=private)

        def turn() -> None:
            sample_dp.train(model, data, task, asked, SiloHalf(), release, silo=NORTH, round=1)

        return turn

    def by(mode: str) -> Callable[[], None]:
        step = step_of(mode, copy.deepcopy(model), batch, LR)
        device = next(model.parameters()).device
        parts = [tensor.to(device).split(batch) for tensor in data.tensors]

        def turn() -> None:
            for images, labels in zip(*parts, strict=True):
                step(images, labels)

        return turn

    own = {"plain": plainly, "hooks": privately("hooks"), "ghost": privately("ghost")}
    return own if only_own else own | {f"Opacus' {mode}": by(mode) for mode in MODES}


def made(name: str, device: str, batch: int) -> tuple[RunScope, nn.Module, Images, TensorDataset]:
    """Return a run, its model, task and images."""
    words, shape, count = MODELS[name]
    run = scope(words, device, batch)
    task = Images(shape)
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(count, *shape, generator=draws)
    data = TensorDataset(images, torch.randint(10, (count,), generator=draws))
    model: nn.Module = loop.prepare(model_of(name, run, task), run.trainer)
    return run, model, task, data


def row(name: str, device: str, batch: int, turns: int, own: bool) -> str:
    """Measure one model and return its line."""
    run, model, task, data = made(name, device, batch)
    count = len(data)
    ways = turns_of(run, model, task, data, batch, only_own=own)
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


def peak() -> float:
    """Return the largest memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_row(name: str, batch: int) -> str:
    """Measure by how much a process of each way grows, and return the model's line."""
    cells = []
    for way in OWN:
        words = ["--grow", way, "--models", name, "--batch", str(batch)]
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, check=True
        )
        cells.append(done.stdout.strip())
    return f"| {name} | {' | '.join(cells)} |"


def grown(name: str, way: str, batch: int) -> str:
    """Return how much more memory a turn of one way takes, in MiB, and the milliseconds of a step."""
    run, model, task, data = made(name, "cpu", batch)
    turn = turns_of(run, model, task, data, batch, only_own=True)[way]
    before = peak()
    turn()
    more = peak() - before
    took = seconds(turn, "cpu") / (len(data) // batch) * 1000
    return f"{more:,.0f} ({took:,.0f} ms)"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="What a private step costs beside a plain one.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--own", action="store_true", help="without Opacus' modes")
    parser.add_argument(
        "--memory", action="store_true", help="memory of each of the product's ways"
    )
    parser.add_argument("--grow", choices=OWN, help="one such measurement")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.grow:
        print(grown(asked.models, asked.grow, asked.batch))
        return
    modes = () if asked.own else tuple(f"Opacus' {mode}" for mode in MODES)
    names = (
        "model",
        "plain, ms a step",
        "hooks (ratio)",
        "ghost (ratio)",
        *modes,
        "MiB of gradients",
    )
    if asked.memory:
        names = ("model, MiB more (ms a step)", *OWN)
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for name in asked.models.split(","):
        if asked.memory:
            print(memory_row(name, asked.batch), flush=True)
        else:
            print(row(name, asked.device, asked.batch, asked.turns, asked.own), flush=True)


if __name__ == "__main__":
    main()
