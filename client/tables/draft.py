"""A first contract for a table, drafted from its files, for their owner to read and correct.

What is drafted says as little of the data as it can: a number's limits are rounded outwards, a
category's value is listed where it stands in several rows, and what looks like a name or a text of
its own in every row is left out.

    MDW-244 nothing to draft a contract from
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.formats.table_file import read_table_file, table_files
from client.tables.contract import NO_AND_YES
from client.tables.encoding import NO, YES, Bad, column_values, texts_of
from conf.errors import DataError
from conf.schema import DataConf
from conf.schema.table_columns import CATEGORY, DATE, FLAG, NUMBER, TYPICAL, ColumnConf

MOST_LISTED: Final = 50
"""Values of a category; a column of text with more of them is left out."""
FEWEST_ROWS: Final = 5
"""In which a value of a category stands to be listed."""
MOST_CLASSES: Final = 20
"""Whole numbers of a label that are taken for classes."""


@dataclass(frozen=True)
class Drafted:
    """A drafted contract: the columns in the order of the files, and those left out, with why."""

    columns: list[ColumnConf]
    left_out: dict[str, str]


def draft(root: Path, conf: DataConf, labels: Sequence[str]) -> Drafted:
    """Return a contract for the files under a root, of which `labels` are predicted.

    Raises DataError: MDW-240 or 241 for a file that is no table, MDW-244 where there are no rows or
    no such label.
    """
    tables = [read_table_file(path, conf).table for path in table_files(root)]
    names = tables[0].column_names
    if sum(table.num_rows for table in tables) == 0:
        raise DataError("MDW-244", f"{root} has no rows.", "Put some there.")
    for label in filter(None, labels):
        if label not in names:
            what = f"{root} has no column {label!r}; its columns are {', '.join(names)}."
            raise DataError("MDW-244", what, "Correct task.label.")
    columns = []
    left_out = {}
    for name in names:
        cells = [table[name] for table in tables if name in table.column_names]
        column = _column(name, pa.chunked_array(_alike(cells)), conf.decimal, name in labels)
        if isinstance(column, str):
            left_out[name] = column
        else:
            columns.append(column)
    return Drafted(columns, left_out)


def plain(column: ColumnConf) -> dict[str, Any]:
    """Return a column as its contract is written: what is not as it is by default."""
    said = {"name": column.name, "type": column.type}
    usual = ColumnConf()
    for key, value in vars(column).items():
        if key not in said and value != getattr(usual, key):
            said[key] = value
    return said


def _alike(cells: list[pa.ChunkedArray]) -> list[pa.Array]:
    """Return the chunks of one column in several files as texts: Parquet may type them differently."""
    return [pc.cast(chunk, pa.string()) for one in cells for chunk in one.chunks]


def _column(name: str, cells: pa.ChunkedArray, decimal: str, label: bool) -> ColumnConf | str:
    texts, missing = texts_of(cells.combine_chunks())
    if missing.all():
        return "it is empty"
    rule = TYPICAL if missing.any() and not label else ""
    found = pc.unique(texts.filter(pa.array(~missing)))
    # No more of them are looked at one by one than a class or a flag can have.
    values = found.to_pylist() if len(found) <= MOST_CLASSES else None
    if values is not None and _is_flag(values):
        # What is predicted is said in the table's own words.
        own = sorted(values, key=lambda value: value.lower() in YES) if label else []
        words = [] if own == list(NO_AND_YES) else own
        return ColumnConf(name, FLAG, values=words, missing=rule)
    number = _number(name, texts, missing, decimal)
    if number is not None and not (label and values and _counts_classes(values)):
        return replace(number, missing=rule)
    if number is None and _faults(texts, missing, ColumnConf(name, DATE)) == 0:
        return ColumnConf(name, DATE, missing=rule)
    return _category(name, texts, missing, label, rule)


def _is_flag(values: list[str]) -> bool:
    lower = {value.lower() for value in values}
    return len(lower) == 2 and bool(lower & set(NO)) and bool(lower & set(YES))


def _number(name: str, texts: pa.Array, missing: Bad, decimal: str) -> ColumnConf | None:
    column = ColumnConf(name, NUMBER, low=-math.inf, high=math.inf)
    values, faults = column_values(texts, missing, column, decimal)
    if any(fault.found != "missing" for fault in faults):
        return None
    low = float(np.nanmin(np.where(missing, np.nan, values)))
    high = float(np.nanmax(np.where(missing, np.nan, values)))
    low, high = _outwards(low, high)
    return ColumnConf(name, NUMBER, low=low, high=high)


def _outwards(low: float, high: float) -> tuple[float, float]:
    """Return limits rounded outwards to two digits of the larger of their sizes."""
    size = max(abs(low), abs(high), high - low) or 1.0
    step = 10.0 ** (math.floor(math.log10(size)) - 1)
    below = math.floor(low / step) * step
    above = math.ceil(high / step) * step
    if below == above:
        above += step
    # What a decimal step can't say in binary is rounded away: .1 * 3 is .3 to a reader.
    return float(f"{below:.6g}"), float(f"{above:.6g}")


def _faults(texts: pa.Array, missing: Bad, column: ColumnConf) -> int:
    _, faults = column_values(texts, missing, column, ".")
    return sum(fault.found != "missing" for fault in faults)


def _counts_classes(values: list[str]) -> bool:
    return all(value.isdecimal() for value in values)


def _category(name: str, texts: pa.Array, missing: Bad, label: bool, rule: str) -> ColumnConf | str:
    counted = pc.value_counts(texts.filter(pa.array(~missing))).to_pylist()
    common = sorted(one["values"] for one in counted if label or one["counts"] >= FEWEST_ROWS)
    if len(common) < 2 or (len(common) > MOST_LISTED and not label):
        return f"its {len(counted)} texts are not a category's"
    if all(value.isdecimal() for value in common):
        common.sort(key=int)
    elif label and len(common) == 2:
        # The second class is the one that is looked for: most often the rarer.
        common.sort(key=lambda value: -_count_of(value, counted))
    other = len(common) < len(counted)
    return ColumnConf(name, CATEGORY, values=common, other=other, missing=rule)


def _count_of(value: str, counted: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["counts"] for one in counted if one["values"] == value)
