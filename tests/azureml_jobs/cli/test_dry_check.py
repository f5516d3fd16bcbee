"""`meadow check` of a run tries it, and says in the task's own words what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from azureml_jobs.cli.dry_check import is_about_a_run
from azureml_jobs.cli.main import main

TASK = """
import numpy as np
from client.tasks.base import Contract
from client.tasks.kinds.classification import Classification

class Mine(Classification):
    contract = Contract((2,), ("no", "yes"))

    def read(self, root):
        rows = np.genfromtxt(root, delimiter=",", dtype=np.float32)
        return rows[:, :2], rows[:, 2].astype(np.int64)
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(90)))
    return ["check", "task.target=mine.py:Mine", "data.root=mine.csv", "model=mlp"]


@pytest.mark.parametrize(
    ("overrides", "is_one"),
    [
        (["task.target=wine.py:Wine"], True),
        (["model=mlp", "data.root=x"], True),
        (["+strategy.mu=1"], True),
        (["federation.file=hospitals.yaml"], False),
        (["task=digits", "federation.size=5"], False),
        ([], False),
    ],
)
def test_words_about_what_is_trained_mean_a_run(overrides: list[str], is_one: bool) -> None:
    assert is_about_a_run(overrides) is is_one


def test_a_good_one_is_told_in_a_line_for_each_thing(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(TASK)
    assert main(words) == 0
    said = capsys.readouterr().out
    for line in ("3 silos: 7", "examples to train on", "nothing is wrong", "fedavg gives"):
        assert line in said
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            "def loss(self, output, batch):\n        return output",
            "MDW-238: .*`loss` has the shape",
        ),
        (
            "def sums(self, output, batch):\n        return {'n': batch['x']}",
            r"MDW-236: .*`sums` raised TypeError.* \(mine.py, line 14\)",
        ),
        ("def metrics(self, sums):\n        return {'loss': 1}", "MDW-209: .*'loss'"),
    ],
)
def test_a_bad_one_is_told_by_its_method(
    method: str, says: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(f"{TASK}\n    {method}\n")
    assert main(words) == 3
    assert re.search(says, capsys.readouterr().err)
