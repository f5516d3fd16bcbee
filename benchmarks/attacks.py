"""What a lying server gets of a silo's examples out of one update, by how the silo trains.

    python benchmarks/attacks.py [--units 8192] [--examples 1797]

The server sends a model whose first layer is a trap (Fowl et al. 2022, arXiv 2110.13057): every unit
looks in one direction, and the biases cut what is seen there into slices, so that the difference of
two neighbours' gradients is one image where a slice holds one. One step over
all examples of digits, SGD. An image counts as given back where every pixel is within 0.02 of one in
the training set. It prints a line for each way of training: none of it, clipping alone, and
privacy=sample_dp at several epsilons (one round, delta 1e-5), with what an owner's closed policy says
before anything is trained.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client import loop
from client.policy import check_run
from client.privacy import sample_dp
from client.privacy.accountant import Release
from client.tasks import task_named
from conf.allowed import draft
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import DataConf, PolicyConf, RunScope, Silo
from strategies.silo_half import SiloHalf

NEAR = 0.02
LR = 1e5
"""With which float32 keeps the differences of an update apart."""
EPSILONS = (100.0, 8.0, 4.0, 1.0)


def trap(images: Tensor, units: int) -> nn.Module:
    """Return a model whose first layer is the trap, for images like these."""
    flat = images.flatten(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], units), nn.ReLU())
    model.append(nn.Linear(units, 10))
    with torch.no_grad():
        # A direction of chance: hardly two images lie at the same place of it.
        direction = torch.randn(flat.shape[1]) / flat.shape[1] ** 0.5
        model[1].weight.copy_(direction.expand_as(model[1].weight))
        places = torch.linspace(0, 1, units)
        model[1].bias.copy_(-torch.quantile(flat @ direction, places))
        model[3].weight.fill_(0)
        # Of the true class alone there is a gradient that differs between the units.
        model[3].weight.add_(torch.linspace(-1e-3, 1e-3, 10)[:, None])
        model[3].bias.zero_()
    return model


def read_out(before: nn.Module, after: nn.Module) -> Tensor:
    """Return the images (slices, pixels) that the differences of neighbouring units make."""
    weight = before[1].weight - after[1].weight
    bias = before[1].bias - after[1].bias
    pixels = weight.detach()[:-1] - weight.detach()[1:]
    shares = (bias.detach()[:-1] - bias.detach()[1:])[:, None]
    return torch.where(shares.abs() > 0, pixels / shares, torch.nan)


def given_back(found: Tensor, images: Tensor) -> int:
    """Return of how many of the images there is one that is near in every pixel."""
    flat = images.flatten(1)
    known = found[found.isfinite().all(1)]
    return (
        sum(bool(((known - one).abs().amax(1) < NEAR).any()) for one in flat) if len(known) else 0
    )


def scope(*more: str) -> RunScope:
    """Return a run of one step over all examples."""
    words = ["trainer.momentum=0", f"trainer.lr={LR}", "trainer.batch_size=100000"]
    conf = compose(["run.rounds=1", "strategy.weighting=equal", *words, *more])
    names = [field.name for field in dataclasses.fields(RunScope)]
    run = RunScope(**{name: getattr(conf, name) for name in names})
    plain = dataclasses.replace(run.trainer, precision="fp32", deterministic="true")
    return dataclasses.replace(run, trainer=plain)


def plainly(model: nn.Module, data: TensorDataset) -> None:
    """Train as a run without privacy does."""
    loop.train(model, data, task_named("digits"), scope().trainer, seed=1)


def privately(noise: float | None, epsilon: float) -> Callable[[nn.Module, TensorDataset], None]:
    """Return the training of privacy=sample_dp, with a noise or with that of an epsilon."""
    run = scope("privacy=sample_dp", f"privacy.epsilon={epsilon}")

    def train(model: nn.Module, data: TensorDataset) -> None:
        plan = sample_dp.plan_for(run, data)
        release = sample_dp.release_of(run, plan)
        if noise is not None:
            release = Release(plan.rate, noise, plan.steps)
        silo = Silo("north", batch_size_at_most=64)
        task = task_named("digits")
        sample_dp.train(model, data, task, run, SiloHalf(), release, silo=silo, round=1)

    return train


def refused() -> str:
    """Return what a silo whose owner has drafted a policy says of such a run."""
    allowed = draft(compose(["task=digits", "trainer.lr=0.05"]))
    silo = Silo("north", policy=PolicyConf(version=2, allow=allowed))
    try:
        check_run(scope(), silo, 1)
    except SiloError as error:
        return error.code
    return "nothing"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="What a lying server gets out of one update.")
    parser.add_argument("--units", type=int, default=8192)
    parser.add_argument("--examples", type=int, default=1797)
    asked = parser.parse_args()
    torch.manual_seed(0)
    silo = Silo("north", data=DataConf(partition="iid", examples=asked.examples))
    data = task_named("digits").data(silo).train
    assert isinstance(data, TensorDataset)
    images = data.tensors[0]
    ways = {"none": plainly, "clipping alone": privately(1e-9, 4.0)}
    ways |= {f"sample_dp, epsilon {e:g}": privately(None, e) for e in EPSILONS}
    print(
        f"| way | of {len(images)} images | median error of a pixel | seconds |\n|---|---|---|---|"
    )
    for name, train in ways.items():
        model = trap(images, asked.units)
        before = copy.deepcopy(model)
        started = time.perf_counter()
        train(model, data)
        seconds = time.perf_counter() - started
        found = read_out(before, model)
        nearest = nearest_errors(found, images)
        print(
            f"| {name} | {given_back(found, images)} | {nearest:.3g} | {seconds:.1f} |", flush=True
        )
    print(f"| an owner's closed policy | {refused()}: nothing is trained | | |")


def nearest_errors(found: Tensor, images: Tensor) -> float:
    """Return the median over images of the mean error of a pixel, in what is nearest to each."""
    known = found[found.isfinite().all(1)]
    if not len(known):
        return float("nan")
    flat = images.flatten(1)
    return float(torch.cdist(flat, known, p=1).amin(1).median() / flat.shape[1])


if __name__ == "__main__":
    main()
