"""The algorithm that docs/strategies.md prints trains, remembers on both sides, and is FedDyn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from conf.errors import ConfigError
from server.run.finished import FinishedRun
from server.simulation import simulate

pytestmark = pytest.mark.usefixtures("undrawn")

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"
SMALL = [
    "task=digits",
    "data.examples=300",
    "federation.size=3",
    "run.rounds=3",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file as the page prints it."""
    (text,) = re.findall(r"```python\n# feddyn\.py\n(.*?)```", PAGE.read_text(), re.S)
    path = tmp_path / "feddyn.py"
    path.write_text(text)
    return path


def trained(file: Path, *more: str) -> FinishedRun:
    target = f"strategy.target={file}:FedDyn"
    return simulate([*SMALL, target, f"run.output={file.parent}", *more])


def weights(run: FinishedRun) -> torch.Tensor:
    return torch.cat([w.flatten() for w in run.model().state_dict().values()])


def test_the_page_s_algorithm_trains_with_both_its_halves(file: Path) -> None:
    run = trained(file)
    assert run.result.status == "finished" and not any(r.failed for r in run.rounds)
    plain = simulate([*SMALL, f"run.output={file.parent}"])
    assert not torch.equal(weights(run), weights(plain))


def test_workers_of_their_own_change_no_bit_of_it(file: Path) -> None:
    assert torch.equal(weights(trained(file)), weights(trained(file, "simulation.workers=2")))


def test_its_argument_reaches_both_halves(file: Path) -> None:
    one = trained(file, "strategy.args.alpha=0.5")
    assert not torch.equal(weights(one), weights(trained(file)))


def test_partial_participation_and_buffers_are_no_obstacle(file: Path) -> None:
    run = trained(file, "run.cohort=2", "model=resnet18", "data.examples=60", "run.rounds=2")
    assert run.result.status == "finished"


def test_a_half_that_can_t_be_made_is_told_before_anything_is_started(file: Path) -> None:
    file.write_text(
        file.read_text().replace("def __init__(self, alpha: float):", "def __init__(self, rate):")
    )
    with pytest.raises(ConfigError, match=r"MDW-166.*feddyn\.FedDyn.*'rate'"):
        trained(file)
