"""The files that `meadow new` writes: a task, a model, a strategy, each commented and with its test.

`NAME` and `CLASS` stand for the names; everything else is as it will be read. Each file runs as it
is, so that a beginner changes what works.
"""

from __future__ import annotations

import random
from typing import Final

TASK: Final = '''"""NAME: one of three classes from four columns of a CSV file, the class in the last column.

    meadow check    task.target=NAME.py:CLASS data.root=NAME.csv    # a dry round: what is wrong with it?
    meadow simulate task.target=NAME.py:CLASS data.root=NAME.csv
    meadow simulate task.target=NAME.py:CLASS data.root=NAME.csv task.args.hidden=64 run.rounds=20
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from meadow import Classification, Contract


class CLASS(Classification):
    """Loss (cross-entropy), accuracy and F1 are those of every classification."""

    # What silos must agree on: the shape of one example, and the classes by name.
    contract = Contract(shape=(4,), classes=("red", "green", "blue"))

    def __init__(self, hidden: int = 32) -> None:
        # What a user may set: task.args.hidden=64. The type is checked.
        self.hidden = hidden

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples below data.root: columns (n, 4), and the class of each (n), from 0.

        A simulation partitions them among its silos. A silo of a real federation has
        data.partition=own, and a data.root of its own.
        """
        rows = np.genfromtxt(root, delimiter=",", skip_header=1, dtype=np.float32)
        return rows[:, :-1], rows[:, -1].astype(np.int64)

    def model(self, conf: object) -> nn.Module:
        """Return the model that is trained; left out, one is chosen with model=mlp."""
        return nn.Sequential(nn.Linear(4, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3))
'''

TASK_TEST: Final = '''"""The task NAME learns its example data, and a silo's metrics are what they say."""

from __future__ import annotations

from pathlib import Path

from meadow import simulate

HERE = Path(__file__).parent


def test_it_learns(tmp_path: Path) -> None:
    run = simulate(
        [
            f"task.target={HERE}/NAME.py:CLASS",
            f"data.root={HERE}/NAME.csv",
            "run.rounds=10",
            "simulation.workers=0",
            f"run.output={tmp_path}",
        ]
    )
    assert run.result.final["accuracy"] > 0.6
'''

MODEL: Final = '''"""NAME: a model of one's own, for any task that has a contract.

    meadow simulate model.target=NAME.py:CLASS
    meadow simulate model.target=NAME.py:CLASS model.args.hidden=64 task=digits
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from meadow import Contract


class CLASS(nn.Module):
    """One hidden layer. What travels is the state dict: each entry is averaged, or kept by its silo."""

    def __init__(self, contract: Contract, hidden: int = 32) -> None:
        # `contract` is the task's: the shape of one example, its classes or targets.
        # Every other argument is the user's to set: model.args.hidden=64. The type is checked.
        super().__init__()
        self.first = nn.Linear(math.prod(contract.shape), hidden)
        self.last = nn.Linear(hidden, contract.outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (n, classes) of inputs (n, *contract.shape)."""
        return self.last(self.first(inputs.flatten(1)).relu())
'''

MODEL_TEST: Final = '''"""The model NAME learns the handwritten digits."""

from __future__ import annotations

from pathlib import Path

from meadow import simulate

HERE = Path(__file__).parent


def test_it_learns(tmp_path: Path) -> None:
    run = simulate(
        [
            f"model.target={HERE}/NAME.py:CLASS",
            "data.examples=600",
            "run.rounds=5",
            "simulation.workers=0",
            f"run.output={tmp_path}",
        ]
    )
    assert run.result.final["accuracy"] > 0.5
'''

STRATEGY: Final = '''"""NAME: FedAvg whose silos pull their weights back towards where the round began.

    meadow simulate strategy.target=NAME.py:CLASS
    meadow simulate strategy.target=NAME.py:CLASS strategy.args.pull=0.1

An algorithm has two halves in one file. As it stands this one is FedProx (Li et al. 2020, arXiv
1812.06127): change either half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from meadow import Algorithm, SiloHalf


class CLASSAtSilo(SiloHalf):
    """The half at the silo: hooks around its training loop. Each has a default that does nothing."""

    def __init__(self, pull: float) -> None:
        # The arguments of the server's half, by name.
        self.pull = pull

    def begin(self, model: nn.Module, state: Any, sent: Any) -> None:
        """A round begins with the global model; `state` is what `end` kept in the last one."""
        self.start = [w.detach().clone() for w in model.parameters() if w.requires_grad]

    def gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Before each step: change the gradients in place."""
        for weight, start in zip(weights, self.start, strict=True):
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - start, alpha=self.pull)


class CLASS(Algorithm):
    """The half at the server: a Flower strategy; `Algorithm` is FedAvg, the mean weighted by examples."""

    silo_half = CLASSAtSilo

    def __init__(self, pull: float = 0.01) -> None:
        # What a user may set: strategy.args.pull=0.1. The type is checked.
        super().__init__()
        self.pull = pull
'''

STRATEGY_TEST: Final = '''"""The strategy NAME trains, and its silo half makes a difference."""

from __future__ import annotations

from pathlib import Path

from meadow import simulate

HERE = Path(__file__).parent


def trained(folder: Path, pull: float) -> dict[str, float]:
    run = simulate(
        [
            f"strategy.target={HERE}/NAME.py:CLASS",
            f"strategy.args.pull={pull}",
            "data.examples=600",
            "run.rounds=5",
            "simulation.workers=0",
            f"run.output={folder}",
        ]
    )
    return run.result.final


def test_it_learns_and_pulls(tmp_path: Path) -> None:
    free = trained(tmp_path / "free", 0.0)
    pulled = trained(tmp_path / "pulled", 10.0)
    assert free["accuracy"] > 0.5
    assert pulled["loss"] > free["loss"]
'''

EXAMPLES: Final = 240
"""Rows of the task's example data: each of three silos then has some of every class."""
COLUMNS: Final = ("warm", "bright", "round", "heavy", "class")
CENTRES: Final = (
    (2.0, 0.0, 1.0, 0.0),
    (0.0, 2.0, 0.0, 1.0),
    (-1.0, -1.0, 2.0, 2.0),
)
"""Of each class: what its rows measure in the mean."""


def example_rows() -> str:
    """Return example data as CSV text: three overlapping classes around centres of their own."""
    draw = random.Random(0)
    lines = [",".join(COLUMNS)]
    for number in range(EXAMPLES):
        label = number % len(CENTRES)
        lines.append(_example_row(draw, label))
    return "\n".join(lines) + "\n"


def _example_row(draw: random.Random, label: int) -> str:
    measured = []
    for mean in CENTRES[label]:
        value = draw.gauss(mean, 1.0)
        measured.append(f"{value:.3f}")
    return ",".join([*measured, str(label)])


def filled(template: str, name: str) -> str:
    """Return a template with its names: `fed_mine` is the class FedMine."""
    class_name = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    return template.replace("CLASS", class_name).replace("NAME", name)
