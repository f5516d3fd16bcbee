"""The cells of a table as numbers, by its contract; what breaks it is counted by column and kind.

    number     the number                        NaN where it is missing
    flag       0 or 1                            NaN where it is missing
    category   the index of its value            NaN where it is missing
    date       days since the year 2000          NaN where it is missing

A value outside the contract leaves this module as the kind of fault that it is, never as itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.schema.table_columns import CATEGORY, DATE, FLAG, NUMBER, REFUSE, ColumnConf

MISSING: Final = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Cells of a CSV in which nothing stands."""
NO: Final[tuple[str, ...]] = ("0", "false", "no", "n", "f")
YES: Final[tuple[str, ...]] = ("1", "true", "yes", "y", "t")
"""Of a flag without values of its own, in small letters."""
DAY_ZERO: Final = np.datetime64("2000-01-01", "s")
DATE_FORMATS: Final = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")

Rows = NDArray[np.float32]
"""A row an example, a column each of the contract."""
Bad = NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a column: the kind, in how many rows, and the first of them from 0."""

    column: str
    expected: str
    found: str
    rows: Bad

    @property
    def count(self) -> int:
        """In how many rows."""
        return int(self.rows.sum())

    @property
    def first(self) -> int:
        """The first such row, from 0."""
        return int(self.rows.argmax())


@dataclass(frozen=True)
class Encoded:
    """Rows as numbers, and the faults of their columns."""

    rows: Rows
    faults: list[Fault]


def encoded(table: pa.Table, columns: Sequence[ColumnConf], decimal: str = ".") -> Encoded:
    """Return a table's columns as numbers (rows, columns), and what breaks their contract.

    Each of the columns has to be in the table.
    """
    rows = np.empty((len(table), len(columns)), np.float32)
    faults: list[Fault] = []
    for index, column in enumerate(columns):
        texts, missing = texts_of(table[column.name].combine_chunks())
        values, found = column_values(texts, missing, column, decimal)
        rows[:, index] = values
        faults += found
        if column.missing == REFUSE and missing.any():
            faults.append(Fault(column.name, said(column), "missing", missing))
    return Encoded(rows, faults)


def said(column: ColumnConf) -> str:
    """Return in words what the contract expects of a column."""
    if column.type == NUMBER:
        unit = f" {column.unit}" if column.unit else ""
        return f"a number from {column.low:g} to {column.high:g}{unit}"
    if column.type == CATEGORY:
        return f"one of {len(column.values)} values"
    return "yes or no" if column.type == FLAG else "a date"


def column_values(
    texts: pa.Array, missing: Bad, column: ColumnConf, decimal: str
) -> tuple[NDArray[np.float64], list[Fault]]:
    """Return a column of texts (n) as numbers, and what breaks its contract but missing values."""
    if column.map:
        texts = _written(texts, {one["text"]: one["means"] for one in column.map})
    if column.type == NUMBER:
        values, faults = _numbers(texts, missing, column, decimal)
    elif column.type == DATE:
        values, faults = _dates(texts, missing, column)
    elif column.type == FLAG:
        values, faults = _flags(texts, missing, column)
    else:
        values, faults = _categories(texts, missing, column)
    values[missing] = np.nan
    return values, faults


def _written(texts: pa.Array, other: Mapping[str, str]) -> pa.Array:
    """Return texts with each value in the writing that the contract lists."""
    found = pc.index_in(texts, pa.array(list(other)))
    meant = pa.array(list(other.values())).take(found)
    return pc.coalesce(meant, texts)


def texts_of(cells: pa.Array) -> tuple[pa.Array, Bad]:
    """Return cells as texts without spaces around them, and where nothing stands."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_temporal(cells.type):
        # Parquet's own dates and times, to the second, as a CSV has them.
        cells = pc.strftime(pc.cast(cells, pa.timestamp("s"), safe=False), DATE_FORMATS[1])
    texts = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    nothing = pc.or_(pc.is_null(texts), pc.is_in(texts, pa.array(MISSING)))
    missing = _bools(nothing)
    if pa.types.is_floating(cells.type):
        # Parquet's own NaN is a value that is missing.
        missing |= _bools(pc.fill_null(pc.is_nan(cells), True))
    return pc.fill_null(texts, ""), missing


def _numbers(
    texts: pa.Array, missing: Bad, column: ColumnConf, decimal: str
) -> tuple[NDArray[np.float64], list[Fault]]:
    values, text = _parsed(texts, missing, decimal)
    faults = []
    for what, rows in _kinds_of_text(texts, text, decimal):
        faults.append(Fault(column.name, said(column), what, rows))
    finite = np.isfinite(values)
    endless = ~finite & ~text & ~missing
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    beyond = finite & ~missing & ((values < low) | (values > high))
    for what, rows in (("a number that is not finite", endless), ("beyond its range", beyond)):
        if rows.any():
            faults.append(Fault(column.name, said(column), what, rows))
    return values, faults


NUMBER_TEXT: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?$"
ENDLESS_TEXT: Final = r"(?i)^[+-]?inf(inity)?$"


def _parsed(texts: pa.Array, missing: Bad, decimal: str) -> tuple[NDArray[np.float64], Bad]:
    """Return texts as numbers, and where they are none."""
    plain = texts if decimal == "." else pc.replace_substring(texts, decimal, ".")
    if decimal == ".":
        quick = _all_numbers(plain, missing)
        if quick is not None:
            return quick, np.zeros(len(texts), bool)
    endless = pc.match_substring_regex(plain, ENDLESS_TEXT)
    good = _bools(pc.match_substring_regex(plain, NUMBER_TEXT))
    if decimal != ".":
        # A point beside a decimal comma groups thousands in one country and nothing in another.
        good &= ~_bools(pc.match_substring(texts, "."))
    values = np.full(len(texts), np.nan)
    chosen = plain.filter(pa.array(good & ~missing))
    values[good & ~missing] = pc.cast(pc.utf8_ltrim(chosen, "+"), pa.float64()).to_numpy(
        zero_copy_only=False
    )
    values[_bools(endless)] = np.inf
    return values, ~good & ~missing & ~_bools(endless)


def _all_numbers(texts: pa.Array, missing: Bad) -> NDArray[np.float64] | None:
    """Return texts as numbers where all are finite ones, which is soon seen; None otherwise."""
    try:
        filled = pc.if_else(pa.array(missing), "0", texts)
        values = pc.cast(filled, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return np.array(values) if np.isfinite(values).all() else None


def _kinds_of_text(texts: pa.Array, text: Bad, decimal: str) -> list[tuple[str, Bad]]:
    if not text.any():
        return []
    other = "," if decimal == "." else "."
    # A comma is not of the pattern's language, and needs no escape.
    point = pc.match_substring_regex(texts, rf"^[+-]?\d+[{other}]\d+$")
    comma = text & _bools(point)
    kinds = [("a number with another decimal point", comma), ("text", text & ~comma)]
    return [(what, rows) for what, rows in kinds if rows.any()]


def _dates(
    texts: pa.Array, missing: Bad, column: ColumnConf
) -> tuple[NDArray[np.float64], list[Fault]]:
    parsed = [pc.strptime(texts, f, "s", error_is_null=True) for f in DATE_FORMATS]
    stamps = pc.coalesce(*parsed)
    none = _bools(pc.is_null(stamps)) & ~missing
    seconds = pc.fill_null(pc.cast(stamps, pa.int64()), 0).to_numpy(zero_copy_only=False)
    days = (seconds - DAY_ZERO.astype(np.int64)) / 86400
    faults = [Fault(column.name, said(column), "no date", none)] if none.any() else []
    return days.astype(np.float64), faults


def _flags(
    texts: pa.Array, missing: Bad, column: ColumnConf
) -> tuple[NDArray[np.float64], list[Fault]]:
    no, yes = NO, YES
    plain = texts
    if column.values:
        no = (column.values[0],)
        yes = (column.values[1],)
    else:
        plain = pc.utf8_lower(texts)
    is_yes = _bools(pc.is_in(plain, pa.array(yes)))
    neither = ~is_yes & ~_bools(pc.is_in(plain, pa.array(no))) & ~missing
    found = Fault(column.name, said(column), "neither yes nor no", neither)
    return is_yes.astype(np.float64), [found] if neither.any() else []


def _categories(
    texts: pa.Array, missing: Bad, column: ColumnConf
) -> tuple[NDArray[np.float64], list[Fault]]:
    indices = pc.index_in(texts, pa.array(column.values))
    unknown = _bools(pc.is_null(indices)) & ~missing
    values = np.array(pc.fill_null(indices, len(column.values)), np.float64)
    if column.other or not unknown.any():
        return values, []
    return values, [Fault(column.name, said(column), "a value that it does not list", unknown)]


def _bools(array: pa.Array) -> Bad:
    found: Bad = np.array(array.to_numpy(zero_copy_only=False), bool)
    return found
