"""Tables in files: CSV of any delimiter and encoding, and Parquet; every cell as the text it is.

Nothing is guessed about a cell here: what it means is for the table's contract
(`client.tables.encoding`). What is detected of a CSV, its delimiter and a byte order mark, is told
in the log.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import csv, parquet

from client.formats.file_tree import files_under
from client.formats.room import check_room
from conf.errors import DataError
from conf.schema import DataConf

log = logging.getLogger(__name__)

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq")
PARQUET: Final = b"PAR1"
"""How such a file begins, whatever its name is."""
DELIMITERS: Final = (",", ";", "\t", "|")
"""Those that are looked for in the first line."""
MOST_COLUMNS: Final = 100_000
"""Of one file: of more the first line alone takes minutes."""
MOST_HEADER: Final = 1 << 24
"""Bytes of a CSV's first line."""
BLOCK: Final = 1 << 20
BLOCKS_OF_A_LINE: Final = 4
"""So many times as long as the first line may another one be, or `BLOCK`."""
OF_A_CELL: Final = 16
"""Bytes that a cell takes at least while it is read: where its text is, and the number."""
_HEAD: Final = 1 << 16


@dataclass(frozen=True)
class TableFile:
    """The cells of one file, a column of texts or of Parquet's own types each.

    `first_row` is the line in which the rows begin, for people who look for one.
    """

    path: Path
    table: pa.Table
    first_row: int


def table_files(root: Path) -> list[Path]:
    """Return a root's table files, sorted by their names' bytes, so that every machine agrees.

    Raises DataError MDW-240 where there are none, or where a folder may not be entered.
    """
    if root.is_file():
        return [root]
    try:
        files = [path for path in files_under(root) if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        where = Path(error.filename or root)
        raise _unreadable(where, error.strerror or type(error).__name__) from error
    if not files:
        raise _unreadable(root, f"it has no {', '.join(SUFFIXES)} file")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix().encode())


def read_table_file(path: Path, conf: DataConf) -> TableFile:
    """Return a file's cells; raises DataError MDW-240 where it can't be read as a table, MDW-241 for
    a row that is too long or too short, MDW-250 where the memory does not hold it.
    """
    try:
        if _head(path).startswith(PARQUET):
            return TableFile(path, _read_parquet(path), 1)
        return _read_csv(path, conf)
    except (OSError, pa.ArrowException, UnicodeError, LookupError) as error:
        # The library's own words may quote a cell: they stay in the chain, and out of the message.
        raise _unreadable(path, _kind(error)) from error


def _read_csv(path: Path, conf: DataConf) -> TableFile:
    check_room(path, path.stat().st_size, "so many bytes")
    head = _head(path)
    encoding = conf.encoding or _encoding(path, head)
    text = _first_line(path, encoding)
    if not text:
        raise _unreadable(path, "it is empty")
    if "\0" in text:
        raise _unreadable(
            path, "it is no text, or UTF-16 without a byte order mark; set data.encoding"
        )
    delimiter = conf.delimiter or _delimiter(path, text)
    _check_width(path, text.count(delimiter) + 1)
    wrong: list[csv.InvalidRow] = []

    def skip(row: csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    names = list(conf.columns)
    source: Any = path
    if delimiter == " ":
        # Any number of blanks stands between two cells.
        source = pa.BufferReader(_single_blanks(path, encoding))
        text = re.sub(r"[ \t]+", " ", text)
        encoding = "utf-8"
    table = csv.read_csv(
        source,
        # One thread numbers the rows, so that a wrong one can be named.
        read_options=csv.ReadOptions(
            encoding=encoding,
            use_threads=False,
            column_names=names or None,
            # A row has to lie in one block: of many columns it is long.
            block_size=max(BLOCK, BLOCKS_OF_A_LINE * len(text.encode())),
        ),
        parse_options=csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=_texts(names or _names(path, text, delimiter)),
    )
    if wrong:
        row = wrong[0]
        what = f"{len(wrong)} row(s) are too long or too short, first row {row.number}"
        more = f"{row.actual_columns} cells in the place of {row.expected_columns}"
        raise DataError(
            "MDW-241",
            f"{path}: {what}: {more}.",
            "Quote cells that hold the delimiter, or set data.delimiter.",
            {"found": "rows of another length", "rows": len(wrong)},
        )
    return TableFile(path, table, 1 if names else 2)


def _single_blanks(path: Path, encoding: str) -> bytes:
    """Return a file's lines in UTF-8 with one blank between cells, and none around them."""
    lines = path.read_text(encoding=encoding).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines).encode()


def _texts(names: list[str]) -> csv.ConvertOptions:
    """Have every column read as texts: what a cell means is the contract's to say."""
    return csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=False,
        check_utf8=True,
    )


def _names(path: Path, text: str, delimiter: str) -> list[str]:
    opened = csv.open_csv(
        pa.BufferReader(text.encode() + b"\n"),
        parse_options=csv.ParseOptions(delimiter=delimiter),
        # The whole line is one block: the library does not look for names beyond.
        read_options=csv.ReadOptions(block_size=MOST_HEADER, use_threads=False),
    )
    # Closed at once: a thread of the library's that still reads ahead ends a process that exits.
    with opened as reader:
        names = list(reader.schema.names)
    _check_names(path, names)
    return names


def _check_names(path: Path, names: list[str]) -> None:
    _check_width(path, len(names))
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise _unreadable(path, f"two columns are named {twice[0]!r:.80}")


def _check_width(path: Path, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise _unreadable(path, f"it has {columns:,} columns, and {MOST_COLUMNS:,} may be")


def _read_parquet(path: Path) -> pa.Table:
    with parquet.ParquetFile(path) as file:
        claimed = file.metadata
        schema = file.schema_arrow
        _check_names(path, schema.names)
        nested = [column.name for column in schema if pa.types.is_nested(column.type)]
        if nested:
            raise _unreadable(path, f"its column {nested[0]!r:.80} holds lists or records")
        groups = [claimed.row_group(i) for i in range(claimed.num_row_groups)]
        cells = claimed.num_rows * claimed.num_columns
        # A value that is written once for a billion rows takes a few bytes on disk.
        needed = max(cells * OF_A_CELL, sum(group.total_byte_size for group in groups))
        check_room(path, needed, f"{claimed.num_rows:,} rows of {claimed.num_columns:,} columns")
        return file.read()


def _first_line(path: Path, encoding: str) -> str:
    """Return a CSV's first line in which something stands; empty where there is none."""
    with path.open(encoding=encoding, errors="replace", newline=None) as file:
        while True:
            line = file.readline(MOST_HEADER)
            if not line:
                return ""
            if len(line) == MOST_HEADER:
                raise _unreadable(path, f"its first line has more than {MOST_HEADER:,} letters")
            if line.strip():
                return line.lstrip("\ufeff").rstrip("\n")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _encoding(path: Path, head: bytes) -> str:
    marks = (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    )
    for mark, encoding in marks:
        if head.startswith(mark):
            log.info("%s begins with a byte order mark: it is read as %s.", path, encoding)
            return encoding
    return "utf-8"


def _delimiter(path: Path, text: str) -> str:
    counts = {one: text.count(one) for one in DELIMITERS}
    best = max(counts, key=lambda one: counts[one])
    if best != "," and counts[best]:
        log.info("%s: its first line says that %r stands between cells.", path, best)
        return best
    return ","


def _kind(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeError) or "UTF8" in str(error):
        return "its text is not in the encoding that it is read in; set data.encoding"
    if isinstance(error, LookupError):
        return "there is no such encoding as data.encoding says"
    if "straddling" in str(error):
        return "one of its rows is longer than 1 MiB: a quote may not be closed"
    return f"it is not a whole table file ({type(error).__name__})"


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "MDW-240", f"{path} can't be read: {why}.", "Correct or remove it.", {"found": "a file"}
    )
