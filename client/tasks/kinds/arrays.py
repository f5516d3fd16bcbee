"""Tasks whose examples are two arrays: inputs and targets, a row an example."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from client.batches.stored import StoredSet
from client.partition import Indices
from client.tasks.base import Contract, broken
from client.tasks.kinds.in_memory import InMemoryTask

Arrays = tuple[NDArray[Any], ...]
"""Inputs as stored (n, ...), their targets (n, ...), and what else a task counts examples by (n)."""
ANY_SIDE: Final = 32
"""The length of a made-up input's side where the contract names none: as long as a model's layers
can need.
"""
STORED: Final = ("uint8", "int8", "int16", "float16")
"""Types of numbers that take less than a float32, and that torch can choose rows of."""
MADE_UP: Final = 4
"""Examples that are made up."""


class ArrayTask(InMemoryTask[Arrays]):
    """Inputs and targets as arrays; `read` returns the two. Images may be in any usual layout."""

    contract: Contract

    def scaled(self, inputs: Tensor) -> Tensor:
        """Return inputs (n, *contract.shape) of float32 in the scale that models train on."""
        return inputs

    @abstractmethod
    def checked_targets(self, targets: NDArray[Any], where: object) -> NDArray[Any]:
        """Return the targets in the type that the loss takes; `where` names them in errors.

        Raises DataError MDW-202 where they are not what the contract says.
        """

    @abstractmethod
    def made_up_targets(self) -> NDArray[Any]:
        """Return the targets of at most four examples, as `checked_targets` returns them."""

    def made_up(self) -> TensorDataset:
        """Return inputs of zeros with some targets; see `Task.made_up`."""
        targets = self.made_up_targets()
        shape = [ANY_SIDE if side is None else side for side in self.contract.shape]
        return TensorDataset(torch.zeros(len(targets), *shape), torch.from_numpy(targets))

    def checked(self, examples: Arrays, where: object) -> Arrays:
        """Return inputs as they are, and targets as `checked_targets` gives them."""
        inputs, targets = examples
        self.contract.check_inputs(inputs, where)
        if targets.shape[:1] != inputs.shape[:1]:
            raise broken(where, f"it has {len(inputs)} examples and targets {targets.shape}")
        return inputs, self.checked_targets(targets, where)

    def count(self, examples: Arrays) -> int:
        """Return the number of rows."""
        return len(examples[1])

    def dataset(self, examples: Arrays, which: Indices | slice) -> TensorDataset:
        """Return some of the examples as tensors: inputs (n, *contract.shape) of float32, targets
        in their own type. What is stored in less than a float each stays so until it is used.
        """
        inputs, targets = examples
        others = torch.from_numpy(np.array(targets[which]))
        if inputs.dtype.name in STORED:
            stored = self.contract.arranged(torch.from_numpy(np.array(inputs[which])))
            return StoredSet(stored, others, scaled=self.scaled)
        chosen = torch.from_numpy(np.array(inputs[which], dtype=np.float32))
        return TensorDataset(self.scaled(self.contract.arranged(chosen)), others)
