"""Sequences of any length with a class for each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Subset

from client.partition import Indices
from client.tasks.base import LARGEST_LOSS, Better, Contract, SumSpec, broken
from client.tasks.kinds.classification import check_classes
from client.tasks.kinds.confusion import accuracy, confusion, macro_f1
from client.tasks.kinds.in_memory import InMemoryTask

IGNORED: Final = -100
"""The tag of a token that does not count: padding, parts of words."""

Row = tuple[ArrayLike, ArrayLike]
"""The tokens of a sequence as whole numbers (length), and their tags (length)."""
Rows = Sequence[Row]


class TokenClassification(InMemoryTask[Rows]):
    """One of `contract.classes` for each token: cross-entropy, accuracy and macro F1 over tokens.

    A subclass sets `contract`, as `Contract((None,), TAGS, dense=True)`, and gives `read`: a list of
    tokens and tags, the latter whole numbers that count the classes from 0, or IGNORED; and
    `model`, which gives logits (n, length, classes) for tokens (n, length). A batch is padded to its
    longest sequence; the loss is a mean over the tokens that count.
    """

    contract: Contract
    loss_range: ClassVar[tuple[float, float]] = (0.0, LARGEST_LOSS)
    shown: ClassVar[Mapping[str, Better]] = {"accuracy": "max", "f1": "max", "loss": "min"}
    padding: ClassVar[int] = 0
    """The token that fills a batch's shorter sequences up."""

    def checked(self, examples: Rows, where: object) -> Rows:
        """Return tokens and tags as arrays of int64; raises DataError MDW-202."""
        return [self._checked_row(row, f"{where}, sequence {n}") for n, row in enumerate(examples)]

    def count(self, examples: Rows) -> int:
        """Return the number of sequences."""
        return len(examples)

    def dataset(self, examples: Rows, which: Indices | slice) -> Subset[tuple[Tensor, Tensor]]:
        """Return some of the sequences, each as tokens and tags."""
        indices = np.arange(len(examples))[which].tolist()
        rows: Any = [examples[index] for index in indices]
        return Subset(rows, range(len(rows)))

    def collate(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Return tokens and tags (n, length) of the longest of some sequences."""
        tokens = [torch.as_tensor(row[0]) for row in rows]
        tags = [torch.as_tensor(row[1]) for row in rows]
        return (
            pad_sequence(tokens, batch_first=True, padding_value=self.padding),
            pad_sequence(tags, batch_first=True, padding_value=IGNORED),
        )

    def made_up(self) -> Subset[tuple[Tensor, Tensor]]:
        """Return sequences of 1 to 4 padding tokens, of the first class."""
        rows = [(np.full(length, self.padding), np.zeros(length, int)) for length in range(1, 5)]
        return self.dataset(rows, slice(None))

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy over the tokens that count, 0 where none does."""
        total = functional.cross_entropy(
            output.flatten(0, 1), batch[1].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / max(self.size(batch), 1)

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy over each sequence's own tokens that count (n)."""
        each = functional.cross_entropy(
            output.movedim(-1, 1), batch[1], ignore_index=IGNORED, reduction="none"
        )
        return each.sum(1) / (batch[1] != IGNORED).sum(1).clamp(min=1)

    def size(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return the number of tokens that count."""
        return int((batch[1] != IGNORED).sum())

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the confusion matrix over tokens."""
        counts = batch[1] != IGNORED
        guesses = output.argmax(-1)
        classes = len(self.contract.classes)
        return {"confusion": confusion(guesses[counts], batch[1][counts], classes)}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the confusion matrix."""
        classes = len(self.contract.classes)
        return {"confusion": SumSpec((classes, classes), at_once=1, confusion=True)}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return the share of right tokens, and the mean over the classes that occur of F1."""
        counts = sums["confusion"]
        return {"accuracy": accuracy(counts), "f1": macro_f1(counts)}

    def _checked_row(self, row: Row, where: object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        tokens = np.asarray(row[0])
        tags = np.asarray(row[1])
        if tokens.ndim != 1 or tokens.shape != tags.shape or not len(tokens):
            raise broken(where, f"it has tokens {tokens.shape} and tags {tags.shape}")
        if tokens.dtype.kind not in "ui" or tags.dtype.kind not in "ui":
            raise broken(where, f"its tokens are {tokens.dtype}, its tags {tags.dtype}")
        check_classes(tags[tags != IGNORED], len(self.contract.classes), where)
        return tokens.astype(np.int64), tags.astype(np.int64)
