"""The contract of a table: its columns, which of them is predicted, and what is done where a value
is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from conf.fields import entries, number, one_of, text, value
from conf.schema.tasks import TaskConf

COLUMN: Final = r"(?!\s)[^\x00-\x1f]{1,200}(?<!\s)"
COLUMN_IN_WORDS: Final = "a column's name: 1 to 200 letters, none of them a control character"
MOST_COLUMNS: Final = 2000
MOST_VALUES: Final = 1000

REFUSE: Final = "refuse"
TYPICAL: Final = "typical"
MEDIAN: Final = "median"
CONSTANT: Final = "constant"

NUMBER: Final = "number"
CATEGORY: Final = "category"
FLAG: Final = "flag"
DATE: Final = "date"


@dataclass
class ColumnConf:
    """One column of a table, as its contract says."""

    name: str = text("", COLUMN, COLUMN_IN_WORDS, help="the column's name in the files' first line")
    type: str = one_of(NUMBER, CATEGORY, FLAG, DATE, help="what its values are")
    low: float | None = value(None, help="of a number, the smallest value that there can be")
    high: float | None = value(None, help="of a number, the largest value that there can be")
    unit: str = text("", r"[^\x00-\x1f]{0,40}", "a short text", help="of a number, for people")
    values: list[str] = entries(
        list,
        pattern=r"[^\x00-\x1f]{1,200}",
        wanted="a text of 1 to 200 letters",
        entries_at_most=MOST_VALUES,
        help="of a category, its values in order; of a flag, those for no and for yes",
    )
    other: bool = value(False, help="of a category: take any other value as one more category")
    map: list[dict[str, str]] = entries(
        list,
        entries_at_most=MOST_VALUES,
        help="of a category or flag, other writings of its values: [{text: '>50K.', means: '>50K'}]",
    )
    missing: str = one_of(
        "",
        REFUSE,
        TYPICAL,
        MEDIAN,
        CONSTANT,
        help="where a value is missing: as task.missing, if empty",
    )
    constant: float | None = value(
        None, help="what a missing number or flag is taken for, with missing: constant"
    )


@dataclass
class TableConf(TaskConf):
    """Rows of a table, in CSV or Parquet files: what is in them is said here, without code."""

    name: str = value("table", help="the task")
    dataset: str = text(
        "", r"[\w .,-]{0,60}", "a short name", help="what the data is called, in outputs"
    )
    bundled: str = one_of(
        "",
        "breast_cancer",
        help="a table that scikit-learn brings, where data.root is not set",
    )
    label: str = text(
        "", rf"({COLUMN})?", COLUMN_IN_WORDS, help="the column that is predicted", also=("target",)
    )
    labels: list[str] = entries(
        list,
        pattern=COLUMN,
        wanted=COLUMN_IN_WORDS,
        entries_at_most=MOST_VALUES,
        help="several flags that are predicted together, in the place of one label",
    )
    columns: list[dict[str, Any]] = entries(
        list,
        entries_at_most=MOST_COLUMNS,
        help="the contract: name, type and limits of each column; empty = drafted, in a simulation, "
        "of the data",
    )
    missing: str = one_of(
        REFUSE,
        TYPICAL,
        MEDIAN,
        CONSTANT,
        help="a missing value: refuse the file, take the mean or the median of all silos (of a "
        "category or flag the most frequent value), or the column's constant",
    )
    missing_flags: bool = value(
        False, help="tell the model of each column that may lack values whether this one does"
    )
    balanced: bool = value(
        False,
        help="weigh the classes in the loss by their inverse frequency over all silos",
        also=("class_weight", "class_weights"),
    )
    scale: str = one_of(
        "standard",
        "range",
        help="numbers as the model gets them: (x - mean) / deviation over all silos, or -1 to 1 over "
        "the contract's range",
    )
    headline: str = text(
        "",
        r"[a-z0-9_]{0,40}",
        "the name of a metric",
        help="the metric that comes first, also for run.keep=best; empty = the task's own",
    )
    subgroup: str = text(
        "",
        rf"({COLUMN})?",
        COLUMN_IN_WORDS,
        help="a category or flag: metrics for each of its values too; empty = none",
        also=("sensitive_feature", "protected"),
    )
    rows_at_least: int = number(
        1, at_least=1, at_most=10**9, help="fewest rows that a silo's files may have"
    )
