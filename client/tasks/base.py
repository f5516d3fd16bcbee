"""What a task is: a data contract, how a silo's examples are loaded, a loss and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from client.partition import Indices, parts
from client.splits import Splits, split
from client.trees import tensors_of
from conf.errors import DataError
from conf.schema import DataConf, Silo

OWN = "own"
"""The `data.partition` of a silo whose `data.root` holds its own examples: all of them are used."""

Better = Literal["max", "min"]
"""Whether more or less of a metric is better."""

Examples = tuple[NDArray[np.generic], Indices]
"""Images as stored (n, H, W), and the class of each (n)."""


@dataclass(frozen=True)
class SumSpec:
    """What one of a task's sums may be.

    A sum is an array of `shape`: counts (int64), or with `real` float64. Each unit of the task's
    `size` adds to each element something between `low` and `high`.
    """

    shape: tuple[int, ...] = ()
    real: bool = False
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Contract:
    """What a model may expect: the `shape` of one example (C, H, W) and the names of the `classes`
    in order.
    """

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
class Data:
    """A silo's examples in three splits (`client.splits`), and the class of each of the first."""

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    labels: Indices | None = None


class Task(ABC):
    """One learning problem; a subclass per file, with its one instance called `task`.

    A batch is whatever `collate` makes of examples (without one: tensors in a tuple); only the task
    looks inside. `shown` names the metrics that tables, curves and early stopping take, the first
    of them the headline, each with whether more or less of it is better.
    """

    name: str
    contract: Contract
    shown: ClassVar[Mapping[str, Better]] = {"loss": "min"}
    collate: Callable[[list[Any]], Any] | None = None

    @abstractmethod
    def data(self, silo: Silo) -> Data:
        """Return a silo's examples: its part of a public set, or what its owner keeps in
        `silo.data.root`.

        Raises DataError where there are none or they break the contract.
        """

    def train_labels(self, silo: Silo) -> Indices | None:
        """Return the class of each example that a silo trains on, or None where examples have none.

        A task that knows them without loading the examples overrides it: a simulation asks for
        every silo before its first round. Raises DataError as `data` does.
        """
        return self.data(silo).labels

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the central test set, or None where there is none."""
        return None

    def output(self, model: nn.Module, batch: Any) -> Any:
        """Return what the model makes of a batch: any tree of tensors."""
        return model(batch[0])

    @abstractmethod
    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar: the mean over what `size` counts."""

    def size(self, batch: Any) -> int:
        """Return what the batch's loss is a mean over: examples; a task may count tokens or pixels."""
        return len(next(tensors_of(batch)))

    def sums(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        """Return a batch's sums by name, which add up over batches and silos (`client.sums`).

        Their names and shapes are those of `sum_specs`.
        """
        return {}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return what each of `sums` may be: the server admits nothing else from a silo."""
        return {}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return the metrics that sums give: of a silo, of a federation, of any union of data."""
        return {}


class Classification(Task):
    """Images of exclusive classes, held in memory: cross-entropy, accuracy and macro F1."""

    shown: ClassVar[Mapping[str, Better]] = {"accuracy": "max", "f1": "max", "loss": "min"}
    _last: _LastChecked | None = None

    @abstractmethod
    def public(self, data: DataConf) -> Examples:
        """Return the public training set."""

    @abstractmethod
    def own(self, root: Path) -> Examples:
        """Return the examples that a silo's owner keeps under `root`."""

    @abstractmethod
    def scaled(self, images: Tensor) -> Tensor:
        """Return images as stored (n, H, W), already of type float32, in the scale that models
        train on.
        """

    def data(self, silo: Silo) -> Data:
        """Return a silo's part of the public set, or its own examples; see `Task.data`."""
        images, labels = self._source(silo.data)
        splits = _splits(labels, silo)
        return Data(
            self.dataset(images, labels, splits.train),
            self.dataset(images, labels, splits.validation),
            self.dataset(images, labels, splits.test),
            labels[splits.train],
        )

    def train_labels(self, silo: Silo) -> Indices:
        """See `Task.train_labels`: from the indices alone."""
        labels = self._source(silo.data)[1]
        return labels[_splits(labels, silo).train]

    def dataset(
        self, images: NDArray[np.generic], labels: Indices, which: Indices | slice
    ) -> TensorDataset:
        """Return some of the examples as tensors: images (n, 1, H, W) of float32, labels (n) of
        int64.
        """
        chosen = torch.from_numpy(np.array(images[which], dtype=np.float32))
        return TensorDataset(
            self.scaled(chosen).unsqueeze(1), torch.from_numpy(np.array(labels[which], np.int64))
        )

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes) against labels (n)."""
        return functional.cross_entropy(output, batch[1])

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the confusion matrix: rows are true classes, columns guessed ones."""
        classes = len(self.contract.classes)
        cells = batch[1] * classes + output.argmax(1)
        counts = torch.bincount(cells, minlength=classes * classes)
        return {"confusion": counts.reshape(classes, classes)}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the confusion matrix."""
        classes = len(self.contract.classes)
        return {"confusion": SumSpec((classes, classes))}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return accuracy, and the mean over the classes that occur of F1 = 2 TP / (2 TP + FP +
        FN).

        A class occurs where it is true or guessed (scikit-learn's `f1_score`, average="macro").
        """
        confusion = sums["confusion"]
        right = confusion.diagonal()
        true_and_guessed = confusion.sum(1) + confusion.sum(0)
        occurs = true_and_guessed > 0
        f1 = 2 * right[occurs].double() / true_and_guessed[occurs].double()
        return {
            "accuracy": int(right.sum()) / int(confusion.sum()),
            "f1": float(f1.mean()),
        }

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
        """Return the first `data.examples` of some examples that keep the contract, checked once
        for all silos.
        """
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


def _splits(labels: Indices, silo: Silo) -> Splits:
    """Return the splits of a silo's examples.

    Raises DataError MDW-205 where it has no examples.
    """
    mine = np.arange(len(labels))
    if silo.data.partition != OWN:
        mine = parts(labels, silo.of, silo.data)[silo.index]
    if not len(mine):
        raise DataError(
            "MDW-205", f"{silo.name} has no examples.", f"Put some in {silo.data.root}."
        )
    return split(mine, silo)


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
