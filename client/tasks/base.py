"""What a task is: a data contract, how a silo's examples are loaded, a loss and metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from client.partition import Indices, parts
from conf.errors import DataError
from conf.schema import DataConf, Silo
from conf.seeds import seed_for

OWN = "own"
"""The `data.partition` of a silo whose `data.root` holds its own examples: all of them are used."""

Examples = tuple[NDArray[np.generic], Indices]
"""Images as stored (n, H, W), and the class of each (n)."""


@dataclass(frozen=True)
class Contract:
    """What a model may expect: the `shape` of one example (C, H, W) and the names of the `classes` in order."""

    shape: tuple[int, ...]
    classes: tuple[str, ...]

    def check(self, examples: Examples, where: object) -> None:
        """Raise DataError MDW-202 where images or labels are not what the contract says."""
        images, labels = examples
        why = None
        if images.shape[1:] != self.shape[1:] or images.dtype.kind not in "uif":
            why = f"its images are {images.shape[1:]} of {images.dtype}, the task's are {self.shape[1:]} of numbers"
        elif labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
            why = f"it has {len(images)} images and labels {labels.shape} of {labels.dtype}, one whole number each"
        elif len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            why = f"its labels go from {labels.min()} to {labels.max()}, the task's from 0 to {len(self.classes) - 1}"
        elif images.dtype.kind == "f" and not np.isfinite(images).all():
            why = "its images hold values that are not finite"
        if why:
            raise DataError(
                "MDW-202",
                f"{where} breaks the data contract: {why}.",
                "Correct the data, or use another task.",
            )


@dataclass
class SiloData:
    """A silo's examples: the split it trains on, the one it evaluates on, and the class of each of the first."""

    train: Dataset[Any]
    held_out: Dataset[Any]
    labels: Indices | None = None


class Task(ABC):
    """One learning problem; a subclass per file, with its one instance called `task`."""

    name: str
    contract: Contract

    @abstractmethod
    def load(self, silo: Silo) -> SiloData:
        """Return a silo's examples: its part of a public set, or what its owner keeps in `silo.data.root`.

        Raises DataError where there are none or they break the contract.
        """

    def train_labels(self, silo: Silo) -> Indices | None:
        """Return the class of each example that a silo trains on, or None where examples have none.

        A task that knows them without loading the examples overrides it: a simulation asks for every silo before
        its first round. Raises DataError as `load` does.
        """
        return self.load(silo).labels

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the central test set, or None where there is none."""
        return None

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over a batch (a scalar)."""

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the metrics of a whole split, from the model's outputs (n, ...) and targets (n, ...) on the CPU."""


class Classification(Task):
    """Images of exclusive classes, held in memory: cross-entropy, accuracy and macro F1."""

    _last: _LastChecked | None = None

    @abstractmethod
    def public(self, data: DataConf) -> Examples:
        """Return the public training set."""

    @abstractmethod
    def own(self, root: Path) -> Examples:
        """Return the examples that a silo's owner keeps under `root`."""

    @abstractmethod
    def scaled(self, images: Tensor) -> Tensor:
        """Return images as stored (n, H, W), already of type float32, in the scale that models train on."""

    def load(self, silo: Silo) -> SiloData:
        """Return a silo's part of the public set, or its own examples; see `Task.load`."""
        images, labels = self._source(silo.data)
        train, held_out = _splits(labels, silo)
        return SiloData(
            self.dataset(images, labels, train),
            self.dataset(images, labels, held_out),
            labels[train],
        )

    def train_labels(self, silo: Silo) -> Indices:
        """See `Task.train_labels`: from the indices alone."""
        labels = self._source(silo.data)[1]
        train, _ = _splits(labels, silo)
        return labels[train]

    def dataset(
        self, images: NDArray[np.generic], labels: Indices, which: Indices | slice
    ) -> TensorDataset:
        """Return some of the examples as tensors: images (n, 1, H, W) of float32, labels (n) of int64."""
        chosen = torch.from_numpy(np.array(images[which], dtype=np.float32))
        return TensorDataset(
            self.scaled(chosen).unsqueeze(1), torch.from_numpy(np.array(labels[which], np.int64))
        )

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes) against labels (n)."""
        return functional.cross_entropy(output, target)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, and the mean over classes of F1."""
        guess = outputs.argmax(1).numpy()
        truth = targets.numpy()
        classes = len(self.contract.classes)
        # Of each class: the examples that are in it, that were put into it, and both.
        actual = np.bincount(truth, minlength=classes)
        predicted = np.bincount(guess, minlength=classes)
        right = np.bincount(truth[guess == truth], minlength=classes)
        # A class that is neither there nor predicted has no F1, as in scikit-learn's macro average.
        seen = actual + predicted > 0
        f1 = 2 * right[seen] / (actual + predicted)[seen]
        return {"accuracy": float(right.sum() / len(truth)), "f1": float(f1.mean())}

    def _source(self, data: DataConf) -> Examples:
        if data.partition == OWN and data.root is None:
            raise DataError(
                "MDW-200",
                "data.partition=own without data.root.",
                "Set data.root to the silo's own data.",
            )
        examples = self.own(root_of(data)) if data.partition == OWN else self.public(data)
        return self._checked(examples, data)

    def _checked(self, examples: Examples, data: DataConf) -> Examples:
        """Return the first `data.examples` of some examples that keep the contract, checked once for all silos."""
        images, labels = examples
        last = self._last
        # The very same arrays, which a task gives where it keeps a public set in memory.
        if last and last.images is images and last.labels is labels and last.count == data.examples:
            return last.checked
        self.contract.check(examples, data.root or self.name)
        checked = (images[: data.examples], labels[: data.examples].astype(np.int64))
        self._last = _LastChecked(images, labels, data.examples, checked)
        return checked


@dataclass(frozen=True)
class _LastChecked:
    """The arrays that were checked last, and what came of them."""

    images: NDArray[np.generic]
    labels: NDArray[np.generic]
    count: int | None
    checked: Examples


def _splits(labels: Indices, silo: Silo) -> tuple[Indices, Indices]:
    """Return a silo's training and held-out indices; raises DataError MDW-205 where it has no examples."""
    mine = np.arange(len(labels))
    if silo.data.partition != OWN:
        mine = parts(labels, silo.of, silo.data)[silo.index]
    if not len(mine):
        raise DataError(
            "MDW-205", f"{silo.name} has no examples.", f"Put some in {silo.data.root}."
        )
    return split(mine, silo)


def split(mine: Indices, silo: Silo) -> tuple[Indices, Indices]:
    """Return which of a silo's examples it trains on and which it holds out, both sorted, the first never empty."""
    rng = np.random.default_rng(seed_for(silo.data.seed, silo.name, 0, "held-out"))
    count = min(math.floor(silo.data.held_out * len(mine) + 0.5), len(mine) - 1)
    order = rng.permutation(mine)
    return np.sort(order[count:]), np.sort(order[:count])


def root_of(data: DataConf) -> Path:
    """Return `data.root` as an absolute path; raises DataError MDW-200 where nothing is there."""
    root = Path(data.root or "").expanduser().absolute()
    if not root.exists():
        raise DataError(
            "MDW-200",
            f"data.root={data.root}: there is no {root}.",
            "Correct the path, or mount the data.",
        )
    return root
