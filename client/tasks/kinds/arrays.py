"""Tasks whose examples are held in memory as two arrays: inputs and targets, a row an example."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from client.partition import Indices
from client.tasks.base import OWN, Contract, Data, Task, broken, root_of, splits_of
from conf.errors import DataError
from conf.schema import DataConf, Silo

Arrays = tuple[NDArray[np.generic], NDArray[Any]]
"""Inputs as stored (n, ...), and their targets (n, ...)."""


class ArrayTask(Task):
    """Examples in memory: a subclass gives `read`, or `public` where they are not in `data.root`.

    The set is partitioned among the silos, or with `data.partition=own` all a silo's own.
    """

    contract: Contract
    _last_read: _LastRead | None = None
    _last_checked: _LastChecked | None = None

    @abstractmethod
    def read(self, root: Path) -> Arrays:
        """Return the examples that lie under `root`, a file or a folder: inputs and targets.

        They are read again only where a file has changed.
        """

    def public(self, data: DataConf) -> Arrays:
        """Return the set that the silos share: what lies in `data.root`, if not overridden.

        Raises DataError MDW-200 where `data.root` is not set, or nothing is there.
        """
        if data.root is None:
            raise DataError(
                "MDW-200",
                f"The task {self.name} reads its examples from data.root, which is not set.",
                "Set data.root to their file or folder.",
            )
        return self._read_once(root_of(data))

    def scaled(self, inputs: Tensor) -> Tensor:
        """Return inputs (n, *contract.shape) of float32 in the scale that models train on."""
        return inputs

    @abstractmethod
    def checked_targets(self, targets: NDArray[Any], where: object) -> NDArray[Any]:
        """Return the targets in the type that the loss takes; `where` names them in errors.

        Raises DataError MDW-202 where they are not what the contract says.
        """

    def labels(self, targets: NDArray[Any]) -> Indices | None:
        """Return the class of each example, None where they have none.

        A partition goes by them, and a simulation's table counts them.
        """
        return None

    def data(self, silo: Silo) -> Data:
        """Return a silo's part of the public set, or its own examples; see `Task.data`."""
        inputs, targets = self._source(silo.data)
        labels = self.labels(targets)
        splits = splits_of(silo, len(targets), labels)
        return Data(
            self.dataset(inputs, targets, splits.train),
            self.dataset(inputs, targets, splits.validation),
            self.dataset(inputs, targets, splits.test),
            None if labels is None else labels[splits.train],
        )

    def train_labels(self, silo: Silo) -> Indices | None:
        """See `Task.train_labels`: from the indices alone."""
        targets = self._source(silo.data)[1]
        labels = self.labels(targets)
        splits = splits_of(silo, len(targets), labels)
        return None if labels is None else labels[splits.train]

    def dataset(
        self, inputs: NDArray[np.generic], targets: NDArray[Any], which: Indices | slice
    ) -> TensorDataset:
        """Return some of the examples as tensors: inputs (n, *contract.shape) of float32, targets
        in their own type.
        """
        chosen = torch.from_numpy(np.array(inputs[which], dtype=np.float32))
        arranged = self.contract.arranged(chosen)
        return TensorDataset(self.scaled(arranged), torch.from_numpy(np.array(targets[which])))

    def checked(self, examples: Arrays, where: object) -> Arrays:
        """Return examples that keep the contract, with targets as `checked_targets` gives them.

        Raises DataError MDW-202 where they do not.
        """
        inputs, targets = examples
        self.contract.check_inputs(inputs, where)
        if targets.shape[:1] != inputs.shape[:1]:
            raise broken(where, f"it has {len(inputs)} examples and targets {targets.shape}")
        return inputs, self.checked_targets(targets, where)

    def _source(self, data: DataConf) -> Arrays:
        if data.partition == OWN and data.root is None:
            raise DataError(
                "MDW-200",
                "data.partition=own without data.root.",
                "Set data.root to the silo's own data.",
            )
        own = data.partition == OWN
        examples = self._read_once(root_of(data)) if own else self.public(data)
        return self._checked_once(examples, data)

    def _read_once(self, root: Path) -> Arrays:
        """Return what `read` gives: a machine with many silos reads one set once."""
        files = _files(root)
        last = self._last_read
        if last is None or last.files != files:
            last = _LastRead(files, self.read(root))
            self._last_read = last
        return last.examples

    def _checked_once(self, examples: Arrays, data: DataConf) -> Arrays:
        """Return the first `data.examples` of some examples that keep the contract, checked once
        for all silos.
        """
        inputs, targets = examples
        last = self._last_checked
        # The very same arrays, which a task gives where it keeps a public set in memory.
        if last and last.inputs is inputs and last.targets is targets:
            checked = last.checked
        else:
            checked = self.checked(examples, data.root or self.name)
            self._last_checked = _LastChecked(inputs, targets, checked)
        return checked[0][: data.examples], checked[1][: data.examples]


@dataclass(frozen=True)
class _LastRead:
    """The files that were read last, as they were then, and what came of them."""

    files: list[tuple[str, int, int]]
    examples: Arrays


@dataclass(frozen=True)
class _LastChecked:
    """The arrays that were checked last, and what came of them."""

    inputs: NDArray[np.generic]
    targets: NDArray[Any]
    checked: Arrays


def _files(root: Path) -> list[tuple[str, int, int]]:
    """Return each file at or below a root with the time of its last change and its size."""
    paths = [root]
    if root.is_dir():
        paths = [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
    found = []
    for path in sorted(paths):
        try:
            facts = path.stat()
        except OSError:
            # A link to nothing: what reads it will say so.
            continue
        found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return found
