"""Tasks whose examples are held in memory: read once, partitioned among silos, split."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch.utils.data import Dataset

from client.data_files import Files, seen_anew
from client.groups import Columns, groups_by
from client.partition import BY_COLUMN, Indices
from client.splits import Splits, rounded
from client.tasks.base import OWN, Data, Task, root_of, splits_of
from conf.errors import DataError
from conf.schema import DataConf, Silo

Examples = TypeVar("Examples")
"""A set of examples, in whatever form a kind of task holds them."""


class InMemoryTask(Task, Generic[Examples]):
    """Examples in memory: a subclass gives `read`, or `public` where they are not in files.

    The set is partitioned among the silos, or with `data.partition=own` all a silo's own.
    """

    orders: ClassVar[bool] = False
    """Whether its examples come in the order of `data.order`."""
    _last_read: _LastRead | None = None
    _last_checked: _LastChecked | None = None

    def read(self, root: Path) -> Examples:
        """Return the examples that lie under `root`, a file or a folder.

        They are read again only where a file has changed.
        """
        raise DataError(
            "MDW-200",
            f"data.root={root}: the task {self.name} reads no files.",
            "Leave data.root and data.partition=own out, or write the task's `read`.",
        )

    def read_as(self, root: Path, data: DataConf) -> Examples:
        """Return what `read` gives; a task overrides it that reads by the silo's `data` settings."""
        return self.read(root)

    def public(self, data: DataConf) -> Examples:
        """Return the set that the silos share: what lies in `data.root`, if not overridden.

        Raises DataError MDW-200 where `data.root` is not set, or nothing is there.
        """
        if data.root is None:
            raise DataError(
                "MDW-200",
                f"The task {self.name} reads its examples from data.root, which is not set.",
                "Set data.root to their file or folder.",
            )
        return self._read_once(root_of(data), data)

    @abstractmethod
    def checked(self, examples: Examples, where: object) -> Examples:
        """Return examples that keep the contract, in the types that the loss takes.

        `where` names them in errors. Raises DataError MDW-202 where they break the contract.
        """

    @abstractmethod
    def count(self, examples: Examples) -> int:
        """Return how many examples there are."""

    def labels(self, examples: Examples) -> Indices | None:
        """Return the class of each example, None where they have none.

        A partition goes by them, and a simulation's table counts them.
        """
        return None

    def columns(self, root: Path) -> Columns:
        """Return what is known of each example beside what a model sees, by name, for `data.group`.

        In the order of `read`; the names of files, of examples that are files, as `file`.
        """
        return {}

    def columns_as(self, data: DataConf) -> Columns:
        """Return what `columns` gives; a task overrides it that reads by the silo's settings."""
        return {} if data.root is None else self.columns(root_of(data))

    def groups(self, data: DataConf, count: int) -> Indices | None:
        """Return the group of each of `count` examples by `data.group`, None where it is not set.

        Raises DataError MDW-220, 221 or 222 (`client.groups.groups_by`).
        """
        if data.group is None:
            return None
        return groups_by(data.group, self.columns_as(data), count, self.name)

    def ranks(self, data: DataConf, count: int) -> Indices | None:
        """Return where the value of each of `count` examples stands in `data.column`, None where
        the partition does not go by it; raises DataError as `groups` does.
        """
        if data.partition != BY_COLUMN or data.column is None:
            return None
        return groups_by(data.column, self.columns_as(data), count, self.name)

    @abstractmethod
    def dataset(self, examples: Examples, which: Indices | slice) -> Dataset[Any]:
        """Return some of the examples as the loop takes them."""

    def data(self, silo: Silo) -> Data:
        """Return a silo's part of the public set, or its own examples; see `Task.data`."""
        examples = self._source(silo.data)
        count, labels = self._known(examples, silo.data)
        groups = self.groups(silo.data, count)
        splits = self._splits(silo, count, labels, groups)
        return Data(
            self.dataset(examples, splits.train),
            self.dataset(examples, splits.validation),
            self.dataset(examples, splits.test),
            None if labels is None else labels[splits.train],
            None if groups is None else groups[splits.train],
        )

    def train_labels(self, silo: Silo) -> Indices | None:
        """See `Task.train_labels`: from the indices alone."""
        count, labels = self._known(self._source(silo.data), silo.data)
        splits = self._splits(silo, count, labels, self.groups(silo.data, count))
        return None if labels is None else labels[splits.train]

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the part of a shared set that `data.kept_apart` keeps from all silos; None without."""
        if data.partition == OWN or not data.kept_apart:
            return None
        examples = self._source(data)
        every = self._limited(examples, data)
        return self.dataset(examples, slice(every - _held_out(every, data), every))

    def _splits(
        self, silo: Silo, count: int, labels: Indices | None, groups: Indices | None
    ) -> Splits:
        return splits_of(silo, count, labels, groups, self.ranks(silo.data, count))

    def _known(self, examples: Examples, data: DataConf) -> tuple[int, Indices | None]:
        """Return the number of the first `data.examples` examples but for those that are held out,
        and their labels.
        """
        count = self._limited(examples, data)
        if data.partition != OWN:
            count -= _held_out(count, data)
        labels = self.labels(examples)
        return count, None if labels is None else labels[:count]

    def _limited(self, examples: Examples, data: DataConf) -> int:
        count = self.count(examples)
        return count if data.examples is None else min(count, data.examples)

    def _source(self, data: DataConf) -> Examples:
        own = data.partition == OWN
        if data.order is not None and not self.orders:
            raise DataError(
                "MDW-261",
                f"data.order={data.order}: the task {self.name} has no column to order by.",
                "Leave it out; tables have columns.",
            )
        if own and data.root is None:
            raise DataError(
                "MDW-200",
                "data.partition=own without data.root.",
                "Set data.root to the silo's own data.",
            )
        examples = self._read_once(root_of(data), data) if own else self.public(data)
        return self._checked_once(examples, data)

    def _read_once(self, root: Path, data: DataConf) -> Examples:
        """Return what `read_as` gives: a machine with many silos reads one set once."""
        files = seen_anew(str(root))
        settings = _settings(data)
        last = self._last_read
        if last is None or last.files != files or last.settings != settings:
            last = _LastRead(files, settings, self.read_as(root, data))
            self._last_read = last
        examples: Examples = last.examples
        return examples

    def _checked_once(self, examples: Examples, data: DataConf) -> Examples:
        """Return examples that keep the contract, checked once for all silos."""
        last = self._last_checked
        # The very same set, which a task gives where it keeps a public one in memory.
        if last is None or not _same(last.examples, examples):
            last = _LastChecked(examples, self.checked(examples, data.root or self.name))
            self._last_checked = last
        checked: Examples = last.checked
        return checked


@dataclass(frozen=True)
class _LastRead:
    """The files that were read last, as they were then, and what came of them."""

    files: Files
    settings: tuple[object, ...]
    examples: Any


@dataclass(frozen=True)
class _LastChecked:
    """The examples that were checked last, and what came of them."""

    examples: Any
    checked: Any


def _held_out(count: int, data: DataConf) -> int:
    """Return how many of so many examples no silo has."""
    return rounded(data.kept_apart * count)


def _settings(data: DataConf) -> tuple[object, ...]:
    """Return the settings by which files are read, beside where they are."""
    reads = (data.delimiter, data.encoding, data.decimal, data.on_error, tuple(data.columns))
    return (*reads, data.group, data.column, data.order)


def _same(one: object, other: object) -> bool:
    """Whether two sets are the very same objects; a tuple of arrays is made anew at each call."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return all(a is b for a, b in zip(one, other, strict=True))
    return one is other
