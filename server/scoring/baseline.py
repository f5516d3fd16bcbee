"""What the federation was worth: models of each silo alone and of all data, with as many epochs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord

from client import loop, placement
from client.compute import AS_THE_RUN_SAYS, resolved
from client.device import choose
from client.examples import union
from client.input_layer import WithInputLayer
from client.malloc import keep_activations_mapped
from client.models import build_model
from client.tasks import task_of
from conf.errors import ConfigError
from conf.schema import Conf, Silo
from conf.seeds import seed_for
from conf.targets import known
from server.engines.worker import main_hidden, start_fork_server
from server.run.result import Baseline
from server.scoring.evaluation import Scorer, first_weights, splits_for_test
from strategies.wire import protocol

POOLED = "all data pooled"


@dataclass(frozen=True)
class BaselineJob:
    """One model to train without a federation, on the training splits of `silos` together."""

    name: str
    conf: Conf
    silos: tuple[Silo, ...]
    rounds: int
    fitted: dict[str, np.ndarray] = field(default_factory=dict)
    """What the federation's first layer was fitted to: the same for all that are compared."""


def check_baseline(conf: Conf, members: list[Silo]) -> None:
    """Raise ConfigError MDW-105 where baselines are wanted and no data is left to compare on."""
    if conf.run.baseline == "none" or any(silo.data.test > 0 for silo in members):
        return
    if task_of(conf.task).test(conf.data) is None:
        message = (
            f"run.baseline={conf.run.baseline}: data.test=0 and the task has no test set to"
            " compare models on."
        )
        raise ConfigError("MDW-105", message, "Set data.test above 0, or run.baseline=none.")


def baseline_jobs(
    conf: Conf, members: list[Silo], rounds: int, federated: ArrayRecord
) -> list[BaselineJob]:
    """Return the models that `run.baseline` wants; pooled first, since it takes longest."""
    fitted = fitted_arrays(conf, federated)
    wanted = conf.run.baseline
    jobs = []
    if wanted in ("pooled", "all"):
        jobs.append(BaselineJob(POOLED, conf, tuple(members), rounds, fitted))
    if wanted in ("silos", "all"):
        for silo in members:
            jobs.append(BaselineJob(silo.name, conf, (silo,), rounds, fitted))
    return jobs


def fitted_arrays(conf: Conf, federated: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the buffers of a model's first layer, by name; nothing without such a layer.

    They are the same in every round: what silos average is equal at all of them.
    """
    model = build_model(conf.model, task_of(conf.task), conf.run.seed)
    if not isinstance(model, WithInputLayer):
        return {}
    names = [f"input.{name}" for name, _ in model.input.named_buffers()]
    return {name: federated[name].numpy() for name in names}


def train(job: BaselineJob) -> tuple[str, ArrayRecord]:
    """Train one model as a federation of one silo with these examples would."""
    conf = job.conf
    torch.set_num_threads(conf.trainer.threads)
    task = task_of(conf.task)
    examples = union([task.data(silo).train for silo in job.silos])
    trainer = resolved(conf.trainer, AS_THE_RUN_SAYS, choose(conf.trainer.device))
    model = loop.prepare(build_model(conf.model, task, conf.run.seed), trainer)
    fitted = {name: torch.from_numpy(values) for name, values in job.fitted.items()}
    model.load_state_dict(protocol.to_state(first_weights(conf)) | fitted)
    for round in range(1, job.rounds + 1):
        seed = seed_for(conf.run.seed, job.name, round, "train")
        loop.train(model, examples, task, trainer, seed=seed, round=round, rounds=conf.run.rounds)
    return job.name, protocol.to_record(model.state_dict())


def compare(
    conf: Conf, members: list[Silo], federated: ArrayRecord, rounds: int, workers: int | None
) -> Baseline:
    """Return the scores of the federated model and of the baselines, on each test split.

    `workers` processes train at once; 0 trains in this one, None takes one a core.
    """
    started = time.monotonic()
    scorer = Scorer.of(conf, splits_for_test(conf, members))
    baseline = Baseline(federated=scorer.scores(federated))
    jobs = baseline_jobs(conf, members, rounds, federated)
    for name, arrays in _trained(jobs, workers, conf.simulation.gpus):
        scores = scorer.scores(arrays)
        if name == POOLED:
            baseline.centralised = scores
        else:
            baseline.silo_alone[name] = scores
    baseline.silo_alone = dict(sorted(baseline.silo_alone.items()))
    baseline.seconds = time.monotonic() - started
    return baseline


def _trained(
    jobs: list[BaselineJob], workers: int | None, gpus: int | None
) -> Iterator[tuple[str, ArrayRecord]]:
    if workers is None:
        workers = os.cpu_count() or 1
    count = min(len(jobs), workers)
    if count <= 1:
        place = placement.placement(0, 1, placement.shared(gpus), meant=gpus == 0)
        with placement.told_here(place):
            for job in jobs:
                yield train(job)
        return
    start_fork_server(__name__)
    with main_hidden():
        context = multiprocessing.get_context("forkserver")
        pool = context.Pool(count, _start_worker, (known.exported(), count, gpus))
    # Leaving `with` ends the workers, also in the middle of a training.
    with pool:
        yield from pool.imap_unordered(train, jobs)


def _start_worker(outside: str, processes: int, gpus: int | None) -> None:
    # The standard library's pool makes daemons, which may not have processes of their own; those
    # that load examples end with this one.
    multiprocessing.current_process().daemon = False
    os.environ[known.VARIABLE] = outside
    # Numbered from 1 on, and on where one is started in another's place.
    number = (multiprocessing.current_process()._identity[-1] - 1) % processes
    place = placement.placement(number, processes, placement.shared(gpus), meant=gpus == 0)
    os.environ.update(placement.environment(place))
    # Ctrl-C reaches every process of the terminal; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_activations_mapped()
