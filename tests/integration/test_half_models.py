"""Somebody's model of bfloat16, with a layer that is frozen: simulated, launched and resumed, in two bytes a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_wine

import meadow
from conf.errors import DataError
from conf.schema import DataConf
from server.export.export import export
from server.run.history import read_history
from tests.integration.test_outside import launch

TASK = '''
import numpy as np
import torch
from torch import nn
import meadow

MEAN = [13, 2.3, 2.4, 19, 100, 2.3, 2.0, 0.36, 1.6, 5.1, 0.96, 2.6, 750]
SPREAD = [0.8, 1.1, 0.27, 3.3, 14, 0.63, 1.0, 0.12, 0.57, 2.3, 0.23, 0.71, 315]


class Half(nn.Module):
    """Gives its layers what they compute in."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(13, 64)
        self.last = nn.Linear(64, 3)
        self.frozen = nn.Linear(8, 4)
        self.frozen.requires_grad_(False)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x.to(self.first.weight.dtype)).relu())


class Wine(meadow.Classification):
    contract = meadow.Contract((13,), classes=("barolo", "grignolino", "barbera"))

    def __init__(self, dtype: str = "bfloat16") -> None:
        self.dtype = dtype

    def read(self, root):
        rows = np.loadtxt(root, delimiter=",", skiprows=1)
        return rows[:, :-1], rows[:, -1].astype(int)

    def scaled(self, inputs):
        return (inputs - inputs.new_tensor(MEAN)) / inputs.new_tensor(SPREAD)

    def model(self, conf):
        return Half(getattr(torch, self.dtype))
'''
WEIGHTS = 13 * 64 + 64 + 64 * 3 + 3
"""That are trained; the frozen ones do not travel."""


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """The task's file and its data in a folder; returns the overrides that name them."""
    table = load_wine()
    rows = np.column_stack([table.data, table.target])
    np.savetxt(tmp_path / "wine.csv", rows, delimiter=",", header="x", comments="")
    (tmp_path / "half.py").write_text(TASK)
    target = f"task.target={tmp_path}/half.py:Wine"
    given = [target, f"data.root={tmp_path}/wine.csv", "data=iid", "trainer.lr=0.1"]
    return [*given, "run.rounds=6"]


def simulated(folder: Path, asked: list[str], *more: str) -> Any:
    where = [f"run.output={folder / 'simulated'}", "simulation.workers=0"]
    return meadow.simulate([*asked, *where, *more])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_learns_and_two_bytes_a_weight_travel_and_stay(
    asked: list[str], tmp_path: Path, dtype: str
) -> None:
    whole = simulated(tmp_path, asked, f"task.args.dtype={dtype}", "run.name=whole")
    assert whole.result.final["accuracy"] > 0.8
    sent = {size for record in whole.rounds for size in record.bytes_up.values()}
    assert sent == {2 * WEIGHTS}
    weights = load_file(whole.folder / "model/model.safetensors")
    assert {str(one.dtype) for one in weights.values()} == {f"torch.{dtype}"}
    model = meadow.load_model(whole.folder)
    assert torch.equal(model.state_dict()["first.weight"], weights["first.weight"])
    first = simulated(tmp_path, asked, f"task.args.dtype={dtype}", "run.name=a", "run.rounds=3")
    again = meadow.simulate([f"run.resume={first.folder}", "run.rounds=6"])
    assert again.result.model["digest"] == whole.result.model["digest"]


@pytest.mark.parametrize(
    "words",
    [
        ("compression=int8", "compression.down=int8"),
        ("compression=topk", "compression.fraction=0.2"),
        ("compression=lowrank",),
        ("strategy=scaffold", "strategy.server_lr=0.7"),
        ("strategy=trimmed_mean",),
        ("strategy.target=flwr.serverapp.strategy.FedAdam", "strategy.args.eta=0.05"),
        ("strategy.keeps=[last]",),
    ],
    ids=lambda words: words[0].rpartition("=")[2],
)
def test_it_trains_with_whatever_else_a_run_asks(
    asked: list[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    run = simulated(tmp_path, asked, *words, "run.rounds=4")
    assert run.result.status == "finished"
    assert [record.failed for record in run.rounds] == [{}] * 4
    assert run.result.final["loss"] < 1.0
    weights = load_file(run.folder / "model/model.safetensors")
    assert weights["first.weight"].dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("form", ["none", "int8 compression.down=int8"])
def test_a_launched_federation_gives_the_simulation_s_bits(
    asked: list[str], tmp_path: Path, form: str
) -> None:
    run = [*asked, *f"compression={form}".split(), "run.name=mine"]
    done = launch(tmp_path, "launch", "all", "backend=local", *run)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "outputs" / "mine"
    alone = simulated(tmp_path, run)
    model = "model/model.safetensors"
    assert (folder / model).read_bytes() == (alone.folder / model).read_bytes()
    assert [r.bytes_up for r in read_history(folder)] == [r.bytes_up for r in alone.rounds]


def test_its_finished_model_is_exported_by_another_process(
    asked: list[str], tmp_path: Path
) -> None:
    run = simulated(tmp_path, asked, "run.rounds=1")
    done = launch(tmp_path, "export", f"run={run.folder}", "format=safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    made = load_file(run.folder / "export/safetensors/model.safetensors")
    assert made["first.weight"].dtype == torch.bfloat16


def test_what_onnxruntime_can_t_run_is_said_and_no_file_is_left(
    asked: list[str], tmp_path: Path
) -> None:
    run = simulated(tmp_path, asked, "run.rounds=1")
    with pytest.raises(DataError, match=r"MDW-259.*onnxruntime can't run this model"):
        export(str(run.folder), "onnx", tmp_path / "made", DataConf())
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["contract.json"]
