"""Examples that are loaded by processes of their own: in the pool's workers, and in those of the
baselines, which are daemons by the standard library's choice.
"""

from __future__ import annotations

from pathlib import Path

import meadow
from client.batches.loaded import drop_all

TASK = '''
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from client.tasks.base import Data
from client.tasks.digits import Digits


class OneByOne(Dataset):
    """Digits one at a time, each a little brighter or darker each time."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        return x * float(np.random.uniform(0.9, 1.1)), y


class Mine(Digits):
    def data(self, silo: Any) -> Data:
        own = super().data(silo)
        return Data(OneByOne(own.train), own.validation, own.test, own.labels)
'''


def test_workers_of_the_pool_and_of_baselines_load_with_processes_to_the_same_model(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    digests = []
    for workers, loaders in ((0, 0), (2, 1)):
        run = meadow.simulate(
            [
                f"task.target={tmp_path}/mine.py:Mine",
                "task=external",
                "model=mlp",
                "data.examples=120",
                "federation.size=2",
                "run.rounds=2",
                "run.baseline=all",
                f"run.output={tmp_path}/{workers}",
                f"simulation.workers={workers}",
                f"trainer.loader_workers={loaders}",
            ]
        )
        drop_all()
        assert run.result.model is not None and run.result.baseline is not None
        digests.append((run.result.model["digest"], run.result.baseline.silo_alone))
    assert digests[0] == digests[1]
