"""How good a model is: on a central test set, on each silo's test split, and on their union."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from client import loop, sums
from client.compute import for_scoring
from client.input_layer import WithInputLayer
from client.models import build_model
from client.tasks import task_of
from client.tasks.base import Task
from conf.errors import ConfigError
from conf.resume import move, stored
from conf.schema import Conf, Silo, TrainerConf
from conf.silos import silos
from conf.targets.resolve import resolved
from server.run.result import Metrics, Scores
from server.run.run_folder import RunFolder, find
from server.run.start_checks import check_weights, first_weights_file
from server.scoring.pretrained import takes_pretrained
from strategies.wire import protocol

Examples = Dataset[Any]
NOWHERE_ELSE: Final[Mapping[str, str]] = {}


@dataclass
class Scorer:
    """Scores models of one configuration on splits that this machine can see."""

    conf: Conf
    task: Task
    model: nn.Module
    trainer: TrainerConf
    """The server's own: of the run's it has the batch, and nothing that is about a silo's machine."""
    splits: dict[str, Examples]

    @staticmethod
    def of(conf: Conf, splits: dict[str, Examples], device: str | None = None) -> Scorer:
        """Make a scorer for a configuration and the silos' test splits, on the server's device unless
        another is named.
        """
        task = task_of(conf.task)
        trainer = for_scoring(conf.trainer)
        own = device or conf.federation.orchestrator.device
        model = loop.prepare(build_model(conf.model, task, conf.run.seed), trainer, own)
        return Scorer(conf, task, model, trainer, splits)

    def scores(self, arrays: ArrayRecord) -> Scores:
        """Return a model's metrics on each silo's split and on their union."""
        self.load(arrays)
        by_silo = {name: self.sums_on(data) for name, data in sorted(self.splits.items())}
        union = sums.folded(by_silo.values())
        return Scores(
            union=sums.metrics_of(self.task, union),
            by_silo={name: sums.metrics_of(self.task, part) for name, part in by_silo.items()},
        )

    def load(self, arrays: ArrayRecord) -> None:
        """Make a model the one that is scored."""
        self.model.load_state_dict(protocol.to_state(arrays))

    def score_on(self, arrays: ArrayRecord, examples: Examples) -> Metrics:
        """Return a model's metrics on other examples."""
        self.load(arrays)
        return sums.metrics_of(self.task, self.sums_on(examples))

    def sums_on(self, examples: Examples) -> sums.Sums:
        """Return the sums of the model that was loaded on some examples."""
        torch.set_num_threads(self.trainer.threads)
        return loop.evaluate(self.model, examples, self.task, self.trainer).sums


def splits_for_test(conf: Conf, members: list[Silo]) -> dict[str, Examples]:
    """Return the silos' test splits that are not empty, on a machine that sees them all.

    Where no silo has one, the task's test set replaces them, as that of one silo.
    """
    task = task_of(conf.task)
    splits: dict[str, Examples] = {}
    for silo in members:
        split: Any = task.data(silo).test
        if len(split) > 0:
            splits[silo.name] = split
    if splits:
        return splits
    test = task.test(conf.data)
    return {} if test is None else {"test set": test}


def first_weights(conf: Conf) -> ArrayRecord:
    """Return the weights that a run starts from: seeded, or those of `model.init`.

    Raises ConfigError MDW-184 where the file's names or shapes are not the model's.
    """
    model = build_model(conf.model, task_of(conf.task), conf.run.seed)
    weights = first_weights_file(conf)
    if weights is not None:
        source = f"model.init={conf.model.init}"
        given = _read(weights, source)
        if _is_whole(model, given):
            _load(model, weights, source)
        else:
            takes_pretrained(model, given, source)
    return protocol.to_record(model.state_dict())


def conf_of(folder: RunFolder, places: Mapping[str, str] = NOWHERE_ELSE) -> Conf:
    """Return a run's configuration, its code from outside this tree found again, and the same.

    `places` say where it is now, by `task.target` and the like, in the place of what is stored.
    """
    conf = stored(folder.path)
    for place, target in places.items():
        move(conf, place, target)
    return resolved(conf, lambda key: f"the run {folder.run_id}")


def load_model(run: str | Path, places: Mapping[str, str] = NOWHERE_ELSE) -> nn.Module:
    """Return the finished model of a run, in evaluation mode.

    `run` is its folder, or its id in `outputs`. `places` say where code from outside this tree is
    now ({"task.target": "wine.py:Wine"}), where the run itself does not.
    """
    folder = find(str(run))
    conf = conf_of(folder, places)
    model = build_model(conf.model, task_of(conf.task), conf.run.seed)
    _load(model, folder.path / "model/model.safetensors", str(folder.path))
    return model.eval()


def evaluate_run(run: str, places: Mapping[str, str] = NOWHERE_ELSE) -> Scores:
    """Score a finished run's model on the silos' test splits, and on the task's test set."""
    folder = find(run)
    conf = conf_of(folder, places)
    arrays = protocol.to_record(load_model(folder.path, places).state_dict())
    splits = splits_for_test(conf, silos(conf))
    scorer = Scorer.of(conf, splits)
    scores = scorer.scores(arrays) if splits else Scores({}, {})
    test = scorer.task.test(conf.data)
    if test is not None:
        scores.by_silo["test set"] = scorer.score_on(arrays, test)
    return scores


def _load(model: nn.Module, path: Path, source: str) -> None:
    check_weights(path, source)
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, OSError, SafetensorError) as error:
        lines = str(error).splitlines()
        # PyTorch's first line only names the class; the second one is the first mismatch.
        reason = lines[1].strip() if len(lines) > 1 else lines[0]
        raise _unfit(source, path, reason) from error


def _unfit(source: str, path: Path, reason: str) -> ConfigError:
    message = f"{source}: {path} does not fit this model: {reason}"
    return ConfigError("MDW-184", message, "Choose the model group that it was trained with.")


def _read(path: Path, source: str) -> dict[str, Tensor]:
    check_weights(path, source)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unfit(source, path, str(error).splitlines()[0]) from error


def _is_whole(model: nn.Module, given: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of a run's model, input layer and all; a network's alone are not."""
    return not isinstance(model, WithInputLayer) or any(name.startswith("input.") for name in given)
