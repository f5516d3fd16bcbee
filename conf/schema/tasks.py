"""The task, and where its examples come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import (
    MOST_EXAMPLES,
    code,
    entries,
    name_of_a_file,
    number,
    one_of,
    target,
    text,
    value,
)


@dataclass
class TaskConf:
    """The task: `client/tasks/<name>.py`, or a class from outside this tree by its `target`."""

    name: str = name_of_a_file("digits", help="the task: data, loss and metrics")
    target: str = target(
        help="a task of your own: where its class is; empty = the one of that name"
    )
    args: dict[str, Any] = entries(
        dict, help="arguments of the task: task.args.NAME=VALUE", also=("init_args", "kwargs")
    )
    code: str = code(help="digest of a task's code from outside this tree; filled in")

    @property
    def title(self) -> str:
        """What the task is called in outputs: the data's name, where its contract has one."""
        dataset: str = getattr(self, "dataset", "")
        return dataset or self.name


@dataclass
class DataConf:
    """Where a silo's examples come from and how a public set is partitioned among silos."""

    root: str | None = value(
        None, help="folder of the data; null = the task's own default", also=("data_dir", "path")
    )
    partition: str = one_of(
        "dirichlet",
        "iid",
        "labels",
        "quantity",
        "column",
        "own",
        help="how a public set is divided among silos; column = by the values of data.column, own = "
        "each silo has all of its own root",
        also=("partitioner", "split"),
    )
    alpha: float = number(
        0.5,
        above=0,
        help="concentration of the Dirichlet partition, of labels or of sizes (quantity); less is "
        "more uneven",
        also=("concentration",),
    )
    labels_per_silo: int = number(
        2,
        at_least=1,
        at_most=MOST_EXAMPLES,
        help="classes that a silo has (labels)",
        also=("num_classes_per_partition",),
    )
    column: str | None = text(
        None,
        r"(?s).*\S.*",
        "a column's name",
        help="by which data.partition=column divides: a value is at one silo, numbers in ranges; file "
        "= a file is at one silo",
        also=("partition_by",),
    )
    validation: float = number(
        0.1,
        at_least=0,
        at_most=0.9,
        help="share of each silo's examples that choose: when to stop, which round's model to keep",
        also=("val_size", "val_fraction", "dev"),
    )
    test: float = number(
        0.1,
        at_least=0,
        at_most=0.9,
        help="share of each silo's examples that say at the end what the model is worth",
        also=("test_size", "test_fraction"),
    )
    group: str | None = text(
        None,
        r"(?s).*\S.*",
        "a column's name or a pattern",
        help="column, or pattern for file names: examples that share it stay in one split; null = "
        "each by itself",
        also=("group_by", "groups", "patient"),
    )
    order: str | None = text(
        None,
        r"(?s).*\S.*",
        "a column's name",
        help="a table's column by which splits go: the last rows are the test, those before choose; "
        "null = drawn at random",
        also=("sort_by", "time_column"),
    )
    kept_apart: float = number(
        0.0,
        at_least=0,
        at_most=0.9,
        help="share of a public set that no silo has, its last by data.order: the task's own test set",
    )
    examples: int | None = number(
        None,
        at_least=1,
        at_most=10**12,
        help="use only this many examples of the set, from its start; null = all",
        also=("max_samples", "limit", "samples"),
    )
    seed: int = number(0, at_least=0, at_most=2**31 - 1, help="seed of the partition")
    columns: list[str] = entries(
        list,
        pattern=r"[^\x00-\x1f]{1,200}",
        wanted="a column's name",
        entries_at_most=2000,
        help="of a CSV whose first line has no names, those of its columns; empty = they are there",
        also=("header", "names"),
    )
    delimiter: str | None = text(
        None,
        r"[^\r\n\"]",
        "one letter",
        help="what stands between the cells of a CSV, a blank for any number of them; null = found in "
        "its first line",
        also=("sep", "separator"),
    )
    encoding: str | None = text(
        None,
        r"[A-Za-z0-9_-]{1,40}",
        "an encoding such as latin-1",
        help="of a CSV's text; null = UTF-8, or what its byte order mark says",
    )
    decimal: str = one_of(".", ",", help="the decimal point of the numbers in a CSV")
    on_error: str = one_of(
        "refuse",
        "skip",
        help="rows or images that break the contract: refuse them all, or leave those out",
    )
    download: bool = value(True, help="fetch a public set that is not there yet")
