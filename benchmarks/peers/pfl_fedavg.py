"""FedAvg by pfl-research on the work of `benchmarks/work.py`, in its own environment; one process of it.

Started twice by `many_silos.py` and `frameworks.py`, once a rank; pfl sums over the processes with
gloo. Each round prints one line of JSON: the seconds until the new model, and with the test set.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional
from work import NiidCnn, Work, accuracy, mnist, parts, say, wait_for_go


class Model(NiidCnn):
    """The CNN with the two methods that pfl calls."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.train()
        return functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        self.eval()
        output = self(x)
        right = int((output.argmax(1) == y).sum())
        loss = float(functional.cross_entropy(output, y, reduction="sum"))
        return {"loss": Weighted(loss, len(y)), "accuracy": Weighted(right, len(y))}


class Watch(TrainingProcessCallback):
    """Evaluates after each round, takes the time, and waits to be told to go on."""

    def __init__(self, work: Work, test: Dataset, stepped: bool) -> None:
        self.work = work
        self.part = test.get_worker_partition()
        self.stepped = stepped
        self.started = 0.0
        self.begun = False

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self._begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        trained = time.perf_counter()
        accuracy = None
        if self.work.test:
            params = NNEvalHyperParams(local_batch_size=self.work.eval_batch_size)
            metrics = model.evaluate(self.part, eval_params=params)
            right = torch.tensor([metrics["accuracy"].weighted_value], dtype=torch.float64)
            total = pytorch_ops.distributed.all_reduce([right])[0]
            accuracy = float(total) / len(self.part.raw_data[0]) / self._world()
        ended = time.perf_counter()
        if self._rank() == 0:
            say("round")
            line = {
                "training": trained - self.started,
                "round": ended - self.started,
                "accuracy": accuracy,
            }
            print(json.dumps(line), flush=True)
        self._begin()
        return False, Metrics()

    def _begin(self) -> None:
        if self.stepped and self._rank() == 0:
            wait_for_go()
        if self._world() > 1:
            torch.distributed.barrier()
        self.started = time.perf_counter()
        if self._rank() == 0 and not self.begun:
            say("begin")
        self.begun = True

    def _rank(self) -> int:
        return pytorch_ops.distributed.global_rank

    def _world(self) -> int:
        return pytorch_ops.distributed.world_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    Work.add_to(parser)
    parser.add_argument("--stepped", action="store_true")
    args = parser.parse_args()
    work = Work.of(args)
    torch.set_num_threads(1)
    torch.manual_seed(work.seed)
    np.random.seed(work.seed)
    x, y = (tensor[: work.examples] for tensor in mnist(work.root, "train"))
    users = {
        str(i): Dataset((x[part], y[part]), user_id=str(i))
        for i, part in enumerate(parts(len(y), work.silos))
    }
    draws = np.random.default_rng(work.seed)
    waiting: list[str] = []

    def sampler() -> str:
        # Without replacement in a round, as Meadow's cohorts; the same in all processes.
        if not waiting:
            chosen = draws.choice(work.silos, size=work.cohort or work.silos, replace=False)
            waiting.extend(str(i) for i in chosen)
        return waiting.pop()

    data = FederatedDataset(users.__getitem__, sampler)
    module = Model()
    model = PyTorchModel(
        module,
        lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=work.momentum),
        torch.optim.SGD(module.parameters(), 1.0),
    )
    params = NNAlgorithmParams(
        central_num_iterations=work.rounds,
        # Metrics of a silo's own examples before and after its training: never.
        evaluation_frequency=10**9,
        train_cohort_size=work.cohort or work.silos,
        val_cohort_size=0,
    )
    train = NNTrainHyperParams(
        local_num_epochs=work.epochs, local_learning_rate=work.lr, local_batch_size=work.batch_size
    )
    tx, ty = mnist(work.root, "t10k")
    FederatedAveraging().run(
        params,
        SimulatedBackend(data, data),
        model,
        train,
        callbacks=[Watch(work, Dataset((tx, ty)), args.stepped)],
        send_metrics_to_platform=False,
    )
    if pytorch_ops.distributed.global_rank == 0:
        say("accuracy", accuracy(module, tx, ty, work))


if __name__ == "__main__":
    main()
