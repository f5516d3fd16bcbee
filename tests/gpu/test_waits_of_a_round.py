"""How often a round waits for its device: once, counted by the operations that would wait.

On the CPU nothing waits, so what is counted are the operations that have to on a GPU, such as
reading a number from a tensor. `test_loop_cuda.py` counts the real ones.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from client import loop
from client.tasks import task_named
from conf.schema import DataConf, Silo, TrainerConf
from strategies.fedprox import FedProxSilo
from strategies.scaffold import ScaffoldSilo
from strategies.silo_half import SiloHalf
from strategies.wire import protocol

DIGITS = task_named("digits")
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "unique_dim")
"""Operations that make the host wait for a GPU."""


class Waits(TorchDispatchMode):
    """Counts what would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "half", [SiloHalf(), FedProxSilo(0.1), ScaffoldSilo()], ids=["fedavg", "fedprox", "scaffold"]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_round_waits_once_for_its_loss(half: SiloHalf, precision: str) -> None:
    data = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=60))).train
    assert isinstance(data, TensorDataset)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    sent = {"c": {n: torch.zeros_like(p) for n, p in net.named_parameters()}}
    conf = TrainerConf(precision=precision, batch_size=8, clip_norm=1.0)
    with Waits() as waits:
        done = loop.train(net, data, DIGITS, conf, half, seed=1, sent=sent)
    assert done.metrics[protocol.NUM_EXAMPLES] == 48
    assert waits.found == {"_local_scalar_dense": 1}
