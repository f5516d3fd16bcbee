"""Four tasks of one file each, from outside this tree, train here and as processes, and resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from azureml_jobs.backends.local_jobs import LocalJobs
from conf.errors import Interrupted
from server.round.cohort import select
from server.run.result import RunResult
from server.scoring.evaluation import load_model
from server.simulation import simulate
from tests.integration.test_local_federation import end

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests/outside_tasks"


@dataclass(frozen=True)
class Case:
    """A task, how its data file is made, what else a command says, and the least of its headline."""

    task: str
    file: str
    make: Callable[[Path], None]
    more: tuple[str, ...]
    metric: str
    least: float


def wine(path: Path) -> None:
    shutil.copy(Path(sklearn.datasets.__file__).parent / "data/wine_data.csv", path)


def prices(path: Path) -> None:
    rng = np.random.default_rng(0)
    houses = rng.uniform(0, 1, (240, 2))
    price = 1 + 2 * houses[:, 0] - houses[:, 1]
    rent = 2 + 3 * houses[:, 0]
    np.savetxt(path, np.column_stack([houses, price, rent]), delimiter=",")


def names(path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for length in rng.integers(1, 14, 240):
        words = rng.integers(1, 50, length)
        lines += [words, (words > 40).astype(int)]
    path.write_text("\n".join(" ".join(map(str, line)) for line in lines))


def cells(path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((90, 12, 12)).astype(np.float32)
    masks = (images > 0.5).astype(np.uint8)
    masks[:, 0] = 255
    np.savez(path, images=images, masks=masks)


CASES = {
    "wine": Case("Wine", "wine.csv", wine, ("model=mlp", "trainer.epochs=5"), "accuracy", 0.8),
    "prices": Case("Prices", "prices.csv", prices, ("model=mlp", "data=iid"), "r2", 0.5),
    "names": Case(
        "Names",
        "names.txt",
        names,
        ("task.args.width=12", "data=quantity", "trainer=adam", "trainer.lr=0.03"),
        "accuracy",
        0.85,
    ),
    "cells": Case(
        "Cells",
        "cells.npz",
        cells,
        ("data=iid", "trainer=adam", "trainer.lr=0.02", "trainer.batch_size=4"),
        "iou",
        0.6,
    ),
}
LOCAL = ["launch", "all", "backend=local"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, Case]:
    return request.param, CASES[request.param]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the four files, away from this tree, whose jobs are ended with the test."""
    made = Path(tempfile.mkdtemp(prefix="meadow-outside-"))
    for file in FILES.glob("*.py"):
        shutil.copy(file, made)
    yield made
    end(LocalJobs(made / ".meadow/federation/jobs"))
    shutil.rmtree(made)


def overrides(folder: Path, name: str, case: Case) -> list[str]:
    case.make(folder / case.file)
    return [
        f"task.target={folder}/{name}.py:{case.task}",
        f"data.root={folder / case.file}",
        f"run.output={folder}/outputs",
        "run.rounds=4",
        *case.more,
    ]


def test_each_is_short() -> None:
    lengths = {file.stem: len(file.read_text().splitlines()) for file in FILES.glob("*.py")}
    assert lengths.keys() == CASES.keys() and max(lengths.values()) < 80


def test_each_trains_in_a_simulation_and_has_the_unbroken_run_s_model_when_resumed(
    folder: Path, case: tuple[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*overrides(folder, *case), "simulation=pool", "simulation.workers=0"]
    whole = simulate([*asked, "run.name=whole"])
    final = whole.result.final
    assert final[case[1].metric] > case[1].least, final

    def interrupted_in_round_3(
        silos: list[str], *, cohort: int | None, seed: int, round: int
    ) -> list[str]:
        if round == 3:
            raise KeyboardInterrupt
        return select(silos, cohort=cohort, seed=seed, round=round)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("server.round.rounds.select", interrupted_in_round_3)
        simulate([*asked, "run.name=broken"])
    resumed = simulate([f"run.output={folder}/outputs", "run.resume=broken"])
    assert resumed.result.final == final
    for (name, one), other in zip(
        whole.model().state_dict().items(), resumed.model().state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_each_trains_as_processes_and_goes_on_when_resumed(
    folder: Path, case: tuple[str, Case]
) -> None:
    asked = overrides(folder, *case)
    launched(folder, *LOCAL, *asked, "run.rounds=3", "run.name=a")
    # The stored run holds a name and a digest, and no path: where the file is has to be said again.
    launched(folder, *LOCAL, asked[0], "run.resume=a", "run.rounds=4")
    result = RunResult.read(folder / "outputs/a")
    assert (result.status, result.rounds) == ("finished", 4)
    assert result.final[case[1].metric] > case[1].least
    alone = simulate([*asked, "simulation=pool", "simulation.workers=0", "run.name=b"])
    of_processes = load_model(folder / "outputs/a").state_dict()
    for name, weights in alone.model().state_dict().items():
        assert torch.equal(weights, of_processes[name]), name


def launched(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "azureml_jobs.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
