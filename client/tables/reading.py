"""A silo's table files as rows of numbers; what breaks the contract is told to its owner with file
and row, and to everybody else by column and kind.

    MDW-242 a table that breaks its contract
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.formats.table_file import TableFile, read_table_file, table_files
from client.tables.contract import TableContract
from client.tables.encoding import Fault, Rows, column_values, encoded, texts_of
from conf.border import field
from conf.errors import DataError
from conf.schema import DataConf
from conf.schema.table_columns import ColumnConf

log = logging.getLogger(__name__)

ANY_NUMBER: Final = ColumnConf("any", low=-math.inf, high=math.inf)
MOST_TOLD: Final = 10
"""Faults of one silo that its answer names."""


@dataclass(frozen=True)
class Table:
    """All rows of a silo's files: what the model gets, what it predicts, and beside them the columns
    that `data.group` and `data.column` name.
    """

    inputs: Rows
    labels: Rows
    beside: dict[str, NDArray[Any]]
    files: NDArray[np.str_]
    left_out: int = 0
    """Rows that `data.on_error=skip` left out."""

    def __len__(self) -> int:
        return len(self.labels)

    def ordered(self, column: str) -> Table:
        """Return the rows in the order of a column's values; equal ones stay as they are.

        Raises DataError MDW-261 where there is no such column.
        """
        if column not in self.beside:
            raise DataError(
                "MDW-261",
                f"data.order={column}: the files have no such column.",
                "Correct it, or leave it out.",
            )
        order = np.argsort(self.beside[column], kind="stable")
        beside = {name: values[order] for name, values in self.beside.items()}
        inputs = self.inputs[order]
        return Table(inputs, self.labels[order], beside, self.files[order], self.left_out)


def read_table(root: Path, contract: TableContract, conf: DataConf) -> Table:
    """Return a silo's rows, of its files in the order of their names.

    Raises DataError: MDW-240 or 241 for a file that is no table, MDW-242 where columns or values
    break the contract.
    """
    files = (read_table_file(path, conf) for path in table_files(root))
    return of_files(files, root, contract, conf)


def of_files(
    files: Iterable[TableFile], root: Path, contract: TableContract, conf: DataConf
) -> Table:
    """Return the rows of some files, one after another; raises DataError MDW-242."""
    parts = [_part(file, contract, conf) for file in files]
    faults = [fault for part in parts for fault in part.faults]
    if faults and conf.on_error == "refuse":
        raise _refused(root, faults)
    kept = [part.without_bad() for part in parts]
    beside = {
        name: np.concatenate([part.beside[name] for part in kept])
        for name in kept[0].beside
        if all(name in part.beside for part in kept)
    }
    return Table(
        np.concatenate([part.inputs for part in kept]),
        np.concatenate([part.labels for part in kept]),
        beside,
        np.concatenate([part.files for part in kept]),
        sum(part.left_out for part in kept),
    )


@dataclass(frozen=True)
class _Part:
    """One file's rows, with its faults."""

    inputs: Rows
    labels: Rows
    beside: dict[str, NDArray[Any]]
    files: NDArray[np.str_]
    faults: list[Fault]

    def without_bad(self) -> Table:
        bad = np.zeros(len(self.labels), bool)
        for fault in self.faults:
            bad |= fault.rows
        good = ~bad
        beside = {name: column[good] for name, column in self.beside.items()}
        inputs = self.inputs[good]
        return Table(inputs, self.labels[good], beside, self.files[good], int(bad.sum()))


def _part(file: TableFile, contract: TableContract, conf: DataConf) -> _Part:
    _check_columns(file, [*contract.inputs, *contract.labels])
    inputs = encoded(file.table, contract.inputs, conf.decimal)
    labels = encoded(file.table, contract.labels, conf.decimal)
    faults = [*inputs.faults, *_with_missing(labels.rows, labels.faults, contract.labels)]
    for fault in faults:
        log.warning(
            "%s, row %d: the column %s is %s, the contract says %s (%d row(s) of this file).",
            file.path,
            fault.first + file.first_row,
            fault.column,
            fault.found,
            fault.expected,
            fault.count,
        )
    wanted = {conf.group, conf.column, conf.order} & set(file.table.column_names)
    beside = {str(name): _plain(file.table[name]) for name in wanted}
    files = np.full(file.table.num_rows, file.path.name)
    return _Part(inputs.rows, labels.rows, beside, files, faults)


def _plain(cells: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as numbers where all of its cells are, as texts otherwise."""
    texts, missing = texts_of(cells.combine_chunks())
    values, faults = column_values(texts, missing, ANY_NUMBER, ".")
    if missing.any() or faults:
        return np.array(texts.to_pylist(), dtype=str)
    return values


def _with_missing(rows: Rows, faults: list[Fault], labels: Sequence[ColumnConf]) -> list[Fault]:
    """Return the labels' faults: one that is missing is a fault whatever the rule of the inputs."""
    found = [fault for fault in faults if fault.found != "missing"]
    for index, column in enumerate(labels):
        named = [fault.rows for fault in found if fault.column == column.name]
        missing = np.isnan(rows[:, index])
        for others in named:
            missing &= ~others
        if missing.any():
            found.append(Fault(column.name, "a label", "missing", missing))
    return found


def _check_columns(file: TableFile, columns: Sequence[ColumnConf]) -> None:
    there = set(file.table.column_names)
    lacking = [column.name for column in columns if column.name not in there]
    if not lacking:
        return
    log.warning("%s lacks the columns %s; it has %s.", file.path, lacking, sorted(there))
    raise DataError(
        "MDW-242",
        f"{file.path} lacks {len(lacking)} column(s) of the contract, first {lacking[0]!r}.",
        "Rename or add them: the contract's names count, not the order.",
        {"column": field(lacking[0]), "expected": "a column", "found": "none of that name"},
    )


def _in_words(fault: Fault) -> str:
    """Return a fault as `column = expected = found`, as a table of all silos' answers reads it."""
    column = fault.column.replace(";", ",").replace("=", "-")
    return f"{column} = {fault.expected} = {fault.found}"


def _refused(root: Path, faults: list[Fault]) -> DataError:
    first = faults[0]
    told: dict[str, str | int] = {}
    for number, fault in enumerate(faults[:MOST_TOLD]):
        if number == 0:
            told["column"] = field(fault.column)
            told["expected"] = field(fault.expected)
            told["found"] = field(fault.found)
    others = sorted({_in_words(fault) for fault in faults[1:MOST_TOLD]})
    if others:
        told["others"] = field("; ".join(others))
    return DataError(
        "MDW-242",
        f"{root}: the column {first.column!r} is {first.found}, the contract says"
        f" {first.expected} ({len(faults)} such fault(s); the log has file and row).",
        "Correct the data or the contract, or set data.on_error=skip.",
        told,
    )
