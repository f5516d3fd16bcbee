"""What is in this tree is written as a stranger's own: copied out of it, a file is the same run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import meadow

ROOT = Path(__file__).parents[2]
SMALL = ("data.examples=240", "run.rounds=2", "simulation.workers=0", "trainer.threads=1")


def digest(folder: Path, name: str, *overrides: str) -> str:
    """Return the digest of the model that a small run ends with."""
    output = [f"run.output={folder}", f"run.name={name}"]
    result = meadow.simulate([*SMALL, *output, *overrides]).result
    assert result.model is not None
    found: str = result.model["digest"]
    return found


@pytest.mark.parametrize(
    ("file", "outside", "inside"),
    [
        pytest.param(
            "client/tasks/digits.py",
            ["task.target={}:Digits", "model=cnn"],
            ["task=digits", "model=cnn"],
            id="task",
        ),
        pytest.param(
            "client/models/mlp.py",
            ["model.target={}:build", "model.args.hidden=[16]"],
            ["model=mlp", "model.hidden=[16]"],
            id="model",
        ),
        pytest.param(
            "strategies/fedprox.py",
            ["strategy.target={}:FedProx", "strategy.args.mu=0.5", "model=mlp"],
            ["strategy=fedprox", "strategy.mu=0.5", "model=mlp"],
            id="fedprox",
        ),
        pytest.param(
            "strategies/scaffold.py",
            ["strategy.target={}:Scaffold", "strategy.weighting=equal", "model=mlp"],
            ["strategy=scaffold", "model=mlp"],
            id="scaffold",
        ),
    ],
)
def test_a_copy_outside_the_tree_gives_the_bits_of_the_tree_s_own(
    file: str, outside: list[str], inside: list[str], tmp_path: Path
) -> None:
    copy = shutil.copy(ROOT / file, tmp_path / f"my_{Path(file).name}")
    there = digest(tmp_path, "there", *[one.format(copy) for one in outside])
    assert there == digest(tmp_path, "here", *inside)
