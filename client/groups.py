"""What must stay together: examples of one patient, account or document, as `data.group` says.

A group is in one split of one silo. Examples that share more than their class tell a model about
each other: a test on a patient whose other images were trained on says too much.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.partition import Indices
from conf.errors import DataError
from conf.schema_keys import nearest

Columns = Mapping[str, NDArray[Any]]
"""What is known of each example beside what a model sees, by name; each of one dimension."""

FILE: Final = "file"
"""The column with the names of files, of examples that are files: a pattern is looked for in it."""


def groups_by(by: str, columns: Columns, count: int, task: str) -> Indices:
    """Return the group of each of `count` examples, as numbers from 0.

    `by` is one of the columns, or a pattern for the column `file`. Raises DataError: MDW-220 for
    neither of them, MDW-221 for a column that is not one value an example, MDW-222 for a pattern
    that is none or that a name does not match.
    """
    if by in columns:
        return numbered(_checked(columns[by], by, count))
    if FILE in columns:
        return by_pattern(_checked(columns[FILE], FILE, count).tolist(), by)
    raise DataError(
        "MDW-220",
        f"data.group={by}: the examples of the task {task} have no such column.",
        nearest(by, columns) if columns else "Have the task's `columns` return it, by name.",
    )


def by_pattern(names: Sequence[str], pattern: str) -> Indices:
    """Return the group of each name: what the first group of a regular expression finds in it, or
    all that it finds where it has no group.

    Raises DataError MDW-222 for a pattern that is none, or that a name does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _no_pattern(pattern, f"it is no regular expression ({error})") from error
    found = []
    for name in names:
        match = compiled.search(str(name))
        shared = match.group(1 if compiled.groups else 0) if match else None
        if shared is None:
            raise _no_pattern(pattern, f"it finds nothing in {str(name)!r:.80}")
        found.append(shared)
    return numbered(np.array(found))


def numbered(values: NDArray[Any]) -> Indices:
    """Return values as numbers from 0, in the order of the values: equal ones get the same."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def members(groups: Indices) -> list[Indices]:
    """Return the examples of each group, in the order of the groups' numbers."""
    order = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.diff(groups[order])) + 1
    return np.split(order, begins)


def most_frequent(labels: Indices, of_groups: Sequence[Indices]) -> Indices:
    """Return each group's most frequent label, of equally frequent ones the smallest."""
    labels_of_groups = []
    for group in of_groups:
        values, counts = np.unique(labels[group], return_counts=True)
        labels_of_groups.append(values[counts.argmax()])
    return np.array(labels_of_groups, np.int64)


def _checked(column: NDArray[Any], name: str, count: int) -> NDArray[Any]:
    values = np.asarray(column)
    if values.ndim != 1 or len(values) < count:
        raise DataError(
            "MDW-221",
            f"data.group: the column {name} is {values.shape}, not one value for each of"
            f" {count} examples.",
            "Have the task's `columns` return a value an example, in the order of the examples.",
        )
    # Only the first examples are used where `data.examples` says so.
    return values[:count]


def _no_pattern(pattern: str, why: str) -> DataError:
    return DataError(
        "MDW-222",
        f"data.group={pattern}: {why}.",
        "Write a column's name, or a regular expression whose first group is what files share.",
    )
