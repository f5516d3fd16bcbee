"""What a task is: how a silo's examples are loaded, a loss, metrics; a contract or a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from client.groups import members, most_frequent
from client.partition import BY_COLUMN, BY_LABEL, Indices, parts
from client.splits import Splits, split, split_groups
from client.trees import tensors_of
from conf.errors import DataError
from conf.files.homes import expanded
from conf.schema import DataConf, ModelConf, Silo

OWN = "own"
"""The `data.partition` of a silo whose `data.root` holds its own examples: all of them are used."""

Better = Literal["max", "min"]
"""Whether more or less of a metric is better."""


LARGEST_LOSS: Final = 1e6
"""Of one example in a task that tells classes apart: a model that is wrong by a factor of e^1,000,000."""


@dataclass(frozen=True)
class SumSpec:
    """What one of a task's sums may be.

    A sum is an array of `shape`: counts (int64), or with `real` float64. Each unit of the task's
    `size` adds to each element something between `low` and `high`. A real sum may name counts of the
    same examples (`withheld_with`): where an owner withholds some of these, it stays at the silo too.

    `at_once` is to how many elements one unit adds at most, None to all of them: the fewer, the less
    noise the sum needs under privacy. A `confusion` has a row for each true class and a column for
    each that is guessed, and one unit adds 1 to one element.
    """

    shape: tuple[int, ...] = ()
    real: bool = False
    low: float = 0.0
    high: float = 1.0
    withheld_with: str = ""
    at_once: int | None = None
    confusion: bool = False


@dataclass(frozen=True)
class Contract:
    """What a model may expect, and what it must give.

    `shape` is that of one example as the model gets it: (C, H, W) of images, (features,) of rows of
    a table, None where a dimension varies. A model gives one output for each of `classes` (what it
    tells apart, in order) or of `targets` (the numbers that it predicts): for an example, or where
    the task is `dense`, for each element of an example (a pixel, a token).
    """

    shape: tuple[int | None, ...]
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    dense: bool = False

    @property
    def outputs(self) -> int:
        """How many numbers a model gives: for an example, or of a dense task for each element."""
        return len(self.classes) or len(self.targets)

    def check_inputs(self, inputs: NDArray[np.generic], where: object) -> None:
        """Raise DataError MDW-202 where inputs as stored (n, ...) are not what the contract says.

        Images may be stored as (n, C, H, W) or (n, H, W, C), with one channel as (n, H, W) too.
        """
        if (
            inputs.ndim == 0
            or not self._is_stored(inputs.shape[1:])
            or inputs.dtype.kind not in "uif"
        ):
            theirs = " or ".join(_plain(shape) for shape in self._layouts())
            raise broken(
                where,
                f"its examples are {inputs.shape[1:]} of {inputs.dtype},"
                f" the task's are {theirs} of numbers",
            )
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            raise broken(where, "its examples hold values that are not finite")

    def arranged(self, inputs: Tensor) -> Tensor:
        """Return inputs as stored (n, ...), which `check_inputs` has let pass, as (n, *shape)."""
        stored = tuple(inputs.shape[1:])
        if _fits(stored, self.shape):
            return inputs
        if len(stored) == len(self.shape) - 1:
            return inputs.unsqueeze(1)
        return inputs.movedim(-1, 1).contiguous()

    def _is_stored(self, stored: tuple[int, ...]) -> bool:
        return any(_fits(stored, layout) for layout in self._layouts())

    def _layouts(self) -> list[tuple[int | None, ...]]:
        """Return the shapes in which an example may be stored, the model's own first."""
        layouts = [self.shape]
        if len(self.shape) == 3:
            channels, height, width = self.shape
            layouts.append((height, width, channels))
            if channels == 1:
                layouts.append((height, width))
        return layouts


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    if len(shape) != len(declared):
        return False
    return all(asked in (None, side) for side, asked in zip(shape, declared, strict=True))


def _plain(shape: tuple[int | None, ...]) -> str:
    sides = ["any" if side is None else str(side) for side in shape]
    return f"({', '.join(sides)}{',' if len(sides) == 1 else ''})"


def broken(where: object, why: str) -> DataError:
    """Return the error for examples that break the data contract; `where` is their file or set."""
    return DataError(
        "MDW-202",
        f"{where} breaks the data contract: {why}.",
        "Correct the data, or use another task.",
    )


@dataclass
class Data:
    """A silo's examples in three splits (`client.splits`), and of each of the first its class, and
    its group (`data.group`, `client.groups`) where examples have groups.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    labels: Indices | None = None
    groups: Indices | None = None


class Task(ABC):
    """One learning problem: a subclass gives `data` and `loss`, the rest has defaults.

    A batch is whatever `collate` makes of examples (without one: tensors in a tuple); only the task
    looks inside. `shown` names the metrics that tables, curves and early stopping take, the first
    of them the headline, each with whether more or less of it is better. Models of this tree need a
    `contract`; a task that brings its own `model` may do without. `client.tasks.kinds` has
    subclasses for common problems.
    """

    name: str
    """As the configuration calls it; set when the task is made."""
    contract: Contract | None = None
    shown: ClassVar[Mapping[str, Better]] = {"loss": "min"}
    metric_sums: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Of which sums a metric is made, and of nothing else: where a silo's owner withholds a metric
    these stay at the silo. A metric that is not named here is taken to be made of all.
    """
    loss_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Between what the loss of one example (of whatever `size` counts) can lie: the server admits
    no other from a silo. `run.admission.loss_at_most` bounds it further.
    """
    collate: Callable[[list[Any]], Any] | None = None

    @abstractmethod
    def data(self, silo: Silo) -> Data:
        """Return a silo's examples: its part of a public set, or what its owner keeps in
        `silo.data.root`.

        Raises DataError where there are none or they break the contract.
        """

    def model(self, conf: ModelConf) -> nn.Module:
        """Return a new model of the task's own, which `model=task` asks for.

        It is called with torch's generator seeded. Raises DataError MDW-210 where the task brings
        none.
        """
        raise DataError(
            "MDW-210",
            f"model=task: the task {self.name} brings no model of its own.",
            "Choose a model of this tree (model=mlp, cnn, resnet18), or write the task's `model`.",
        )

    def input_layer(self) -> Any | None:
        """Return a new first layer for any model of the task, or None where it needs none.

        A `client.input_layer.InputLayer`: its buffers are fitted to the `statistics` of all
        silos before the first round, and stay as they are then.
        """
        return None

    def statistics(self, data: Data) -> Mapping[str, Tensor]:
        """Return what a silo tells of its training split before the first round, as sums by name
        that add up over silos (`client.sums`); nothing, where the task needs none.
        """
        return {}

    def statistic_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the `statistics`, and what an example may add to each."""
        return {}

    def train_labels(self, silo: Silo) -> Indices | None:
        """Return the class of each example that a silo trains on, or None where examples have none.

        A task that knows them without loading the examples overrides it: a simulation asks for
        every silo before its first round. Raises DataError as `data` does.
        """
        return self.data(silo).labels

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the central test set, or None where there is none."""
        return None

    def made_up(self) -> Dataset[Any] | None:
        """Return a few examples made up from the contract, for a server that has none, or None.

        With them a dry round finds mistakes before any silo is asked.
        """
        return None

    def output(self, model: nn.Module, batch: Any) -> Any:
        """Return what the model makes of a batch: any tree of tensors."""
        return model(batch[0])

    @abstractmethod
    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar: the mean over what `size` counts."""

    def example_losses(self, output: Any, batch: Any) -> Tensor:
        """Return a loss of each example of a batch (n), which depends on that example alone.

        Sample-level privacy trains on their sum. A mean over all tokens or pixels of the batch, or a
        weight taken from it, would let one example change the others' gradients, and no guarantee
        would hold. Without it a task can't be trained with privacy=sample_dp (MDW-371).
        """
        raise NotImplementedError

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

    def scores_of(self, sums: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return, of each class that is ranked, its scores in bins (2, bins) among the sums
        (`client.tasks.kinds.score_bins`): curves and operating points are drawn from them.
        """
        return {}

    def subgroups_of(
        self, sums: Mapping[str, Tensor]
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Return, of each group of examples that a task tells apart, its confusion matrix, and its
        scores in bins where two classes are ranked.
        """
        return {}

    def confidence_of(self, sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return how sure a model of several classes was at each temperature, and its loss there
        (`client.tasks.kinds.confidence`); None where that is not counted.
        """
        return None

    def moments_of(self, sums: Mapping[str, Tensor]) -> Tensor | None:
        """Return the products by twos of what a regression adds up of an example
        (`client.tasks.kinds.error_moments`); None where they are not summed.
        """
        return None

    def confusion_of(self, sums: Mapping[str, Tensor]) -> Tensor | None:
        """Return the counts of guesses by true class among the sums, None where there are none."""
        return None


def splits_of(
    silo: Silo,
    count: int,
    labels: Indices | None = None,
    groups: Indices | None = None,
    by: Indices | None = None,
) -> Splits:
    """Return a silo's splits of a set of `count` examples.

    All of them are the silo's own, or it has a part of them, by the class of each (`labels`) where
    the partition goes by classes. With the group of each (`groups`, `client.groups`) a group is in
    one split of one silo. `by` ranks each example for `data.partition=column`.
    Raises DataError: MDW-205 where the silo has no examples, MDW-211 where
    its partition needs labels and there are none, MDW-220 where it wants groups and there are none,
    MDW-223 where one group is all, and what `client.partition.parts` raises.
    """
    if silo.data.group is not None and groups is None:
        raise DataError(
            "MDW-220",
            f"data.group={silo.data.group}: the task does not say which examples belong together.",
            "Have the task pass `groups` to `splits_of`, or leave data.group out.",
        )
    mine = np.arange(count)
    if silo.data.partition != OWN:
        if labels is None and silo.data.partition in BY_LABEL:
            raise DataError(
                "MDW-211",
                f"data.partition={silo.data.partition} goes by classes, and the examples have none.",
                "Use data=iid or data=quantity, or have the task say what to partition by.",
            )
        if silo.data.partition == BY_COLUMN:
            labels = by
            if by is None:
                raise DataError(
                    "MDW-220",
                    f"data.column={silo.data.column}: the examples have no such column.",
                    "Name a column of the data, or use another partition.",
                )
        # Without labels only their number matters.
        known = np.zeros(count, np.int64) if labels is None else labels
        mine = _part(known, groups, silo)
    if not len(mine):
        raise DataError(
            "MDW-205", f"{silo.name} has no examples.", f"Put some in {silo.data.root}."
        )
    if groups is None:
        return split(mine, silo)
    return split_groups(mine, silo, groups[mine])


def _part(labels: Indices, groups: Indices | None, silo: Silo) -> Indices:
    """Return a silo's part of a set, sorted: of examples, or of whole groups."""
    if groups is None:
        return parts(labels, silo.of, silo.data)[silo.index]
    # A group is partitioned as one example of its most frequent class would be.
    of_groups = members(groups)
    chosen = parts(most_frequent(labels, of_groups), silo.of, silo.data)[silo.index]
    return np.sort(np.concatenate([of_groups[number] for number in chosen]))


def root_of(data: DataConf) -> Path:
    """Return `data.root` as an absolute path; raises DataError MDW-200 where nothing is there."""
    root = expanded(data.root or "")
    if not root.exists():
        raise DataError(
            "MDW-200",
            f"data.root={data.root}: there is no {root}.",
            "Correct the path, or mount the data.",
        )
    return root
