"""The same work for each framework that is compared: silos of MNIST, the CNN of NIID-Bench, FedAvg.

Imported by the sides in their own environments, so it needs torch and numpy alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional


@dataclass
class Work:
    """What is trained: `cohort` 0 asks all silos; `test` evaluates the test set after each round."""

    root: str = ""
    silos: int = 1000
    cohort: int = 50
    rounds: int = 5
    epochs: int = 1
    batch_size: int = 10
    eval_batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    seed: int = 1
    test: int = 1
    examples: int = 60_000
    """Of the training set, the first ones, shared evenly by the silos."""

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """Add an argument for each field."""
        for field in fields(Work):
            kind = type(field.default)
            name = "--" + field.name.replace("_", "-")
            parser.add_argument(name, type=kind, default=field.default)

    @staticmethod
    def of(args: argparse.Namespace) -> Work:
        """Return the work that parsed arguments say."""
        return Work(**{field.name: getattr(args, field.name) for field in fields(Work)})

    def arguments(self) -> list[str]:
        """Return the arguments that say this work."""
        said = []
        for field in fields(Work):
            said += ["--" + field.name.replace("_", "-"), str(getattr(self, field.name))]
        return said


class NiidCnn(nn.Module):
    """NIID-Bench's CNN (44,426 parameters), as one would write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(256, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        result: torch.Tensor = self.fc3(x)
        return result


def mnist(root: str, which: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (n, 1, 28, 28) from 0 to 1 and labels (n) of `train` or `t10k`."""
    images = _idx(root, f"{which}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = _idx(root, f"{which}-labels-idx1-ubyte", 8)
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels.astype(np.int64))


def _idx(root: str, name: str, header: int) -> np.ndarray:
    packed = Path(root) / f"{name}.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else None
    if data is None:
        data = (Path(root) / name).read_bytes()
    return np.frombuffer(data, np.uint8, offset=header)


def parts(examples: int, silos: int) -> list[torch.Tensor]:
    """Return an IID partition: each silo's indices."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
    return list(order.tensor_split(silos))


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, work: Work) -> None:
    """Train a model on a silo's examples, as one would write it by hand."""
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=work.momentum)
    model.train()
    for _ in range(work.epochs):
        for batch in torch.randperm(len(y)).split(work.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, work: Work) -> float:
    """Return the share of examples that a model gets right."""
    model.eval()
    size = work.eval_batch_size
    right = 0
    for start in range(0, len(y), size):
        guessed = model(x[start : start + size]).argmax(1)
        right += int((guessed == y[start : start + size]).sum())
    return right / len(y)


def say(event: str, value: float | None = None) -> None:
    """Print what has just happened, with the time: `begin` (of the first round), `round` (its end)."""
    print(json.dumps({"event": event, "at": time.time(), "value": value}), flush=True)


def wait_for_go() -> None:
    """Say that a side is ready for its next round, and wait for its turn."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit()
