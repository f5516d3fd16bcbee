"""An algorithm's half at the silos is tried before a run has a folder, and its mistake is told in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.errors import DataError
from server.simulation import simulate

HALF = """
import meadow
import torch


class Half(meadow.SiloHalf):
    def __init__(self, pull: float = 1.0):
        self.pull = pull

    def begin(self, model, state, sent):
        self.start = {name: w.detach().clone() for name, w in model.named_parameters()}
        self.count = state["seen"]["rounds"] if state else torch.zeros((), dtype=torch.int64)

    def gradients(self, weights):
        for w in weights:
            w.grad.mul_(self.pull)

    def end(self, model, steps, rates):
        moved = {name: w.detach() - self.start[name] for name, w in model.named_parameters()}
        return {"moved": moved}, {"seen": {"rounds": self.count + 1}}


class Mine(meadow.Algorithm):
    silo_half = Half
    extra = ("moved",)

    def __init__(self, pull: float = 1.0):
        self.pull = pull
"""
TINY = ["task=digits", "data.examples=60", "run.rounds=1", "simulation.workers=0", "tracking=off"]


def started(folder: Path, code: str) -> None:
    (folder / "mine.py").write_text(code)
    target = f"strategy.target={folder}/mine.py:Mine"
    simulate([*TINY, target, f"run.output={folder}/outputs"])


def test_a_half_that_fits_its_other_half_trains(tmp_path: Path) -> None:
    started(tmp_path, HALF)
    assert (tmp_path / "outputs").is_dir()


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        (
            "w.grad.mul_(self.pull)",
            "w.grad.mul_(self.pul)",
            "no attribute 'pul' (mine.py, line 16)",
        ),
        ('state["seen"]["rounds"]', 'state["sen"]["rounds"]', "KeyError: 'sen' (mine.py, line 12)"),
        ('"rounds": self.count + 1', '"rounds": 3', "AttributeError"),
        ('{"moved": moved}', "{}", "`Half.end` sends the records none"),
        ('{"moved": moved}', '{"moved": moved, "more": {}}', "sends the records moved, more"),
        ('{"moved": moved}', '{"moved": {"w": moved["1.weight"]}}', "lacks '1.bias'"),
        (
            "w.detach() - self",
            "w.detach().double() - self",
            "is float64 (64, 64), not float32 (64, 64)",
        ),
        ("self.count + 1}}", "self.count + 1}}, 3", "ValueError: too many values to unpack"),
    ],
)
def test_a_mistake_in_a_hook_is_told_by_its_line_before_there_is_a_folder(
    tmp_path: Path, right: str, wrong: str, says: str
) -> None:
    assert right in HALF
    with pytest.raises(DataError, match="MDW-239") as caught:
        started(tmp_path, HALF.replace(right, wrong, 1))
    assert says in caught.value.message
    assert not (tmp_path / "outputs").exists()
