"""A table's contract, read off the configuration: which columns a model gets, which it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema.table_columns import CATEGORY, CONSTANT, DATE, FLAG, NUMBER, ColumnConf
from conf.schema_keys import nearest
from conf.validate import check_limits

WHERE: Final = "the table's contract"
NO_AND_YES: Final = ("0", "1")
Problem = Literal["class", "flags", "number"]
"""What is predicted: one of several classes, several flags, or a number."""


@dataclass(frozen=True)
class TableContract:
    """The columns that a model gets, in order, and those that it predicts."""

    inputs: tuple[ColumnConf, ...]
    labels: tuple[ColumnConf, ...]

    @property
    def problem(self) -> Problem:
        """What kind of prediction it is."""
        if len(self.labels) > 1:
            return "flags"
        return "number" if self.labels[0].type == NUMBER else "class"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what is told apart: a category's values, a flag's no and yes, flags."""
        if self.problem == "flags":
            return tuple(column.name for column in self.labels)
        (label,) = self.labels
        return tuple(label.values) or NO_AND_YES


def contract_of(
    columns: Sequence[Mapping[str, Any]],
    label: str,
    labels: Sequence[str] = (),
    missing: str = "refuse",
) -> TableContract:
    """Return the contract that `task.columns` and `task.label` say.

    Raises ConfigError: MDW-101 to 104 for a column's own keys, MDW-186 for columns that
    contradict each other.
    """
    known = [_column(raw, f"task.columns[{i}]", missing) for i, raw in enumerate(columns)]
    names = [column.name for column in known]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise wrong(f"two of its columns are {twice[0]!r}")
    wanted = _wanted(label, labels, names)
    inputs = tuple(column for column in known if column.name not in wanted)
    if not inputs:
        raise wrong("all of its columns are predicted")
    chosen = tuple(column for name in wanted for column in known if column.name == name)
    _check_labels(chosen)
    return TableContract(inputs, chosen)


def meanings(listed: Sequence[Mapping[str, str]], key: str) -> dict[str, str]:
    """Return what each text of a list of {text, means} means; raises ConfigError MDW-186."""
    for one in listed:
        if set(one) != {"text", "means"} or not all(isinstance(v, str) for v in one.values()):
            raise wrong(f"{key} has entries of a text and what it means", f"Correct {key}.")
    return {one["text"]: one["means"] for one in listed}


def wrong(what: str, hint: str = "Correct task.columns, or task.label.") -> ConfigError:
    """Return the error for a contract that can't be meant."""
    return ConfigError("MDW-186", f"{WHERE}: {what}.", hint)


def _wanted(label: str, labels: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    if bool(label) == bool(labels):
        raise wrong("task.label, or several flags in task.labels, says what is predicted")
    wanted = (label,) if label else tuple(labels)
    for name in wanted:
        if name not in names:
            raise wrong(f"no column is named {name!r}", nearest(name, names))
    return wanted


def _column(raw: Mapping[str, Any], key: str, missing: str) -> ColumnConf:
    column = from_plain(ColumnConf, raw, key=key, where=WHERE)
    check_limits(column, key, lambda _: WHERE)
    if column.type in (CATEGORY, FLAG):
        column = replace(column, values=list(column.values), map=[dict(one) for one in column.map])
    for check in (_check_name, _check_number, _check_values, _check_constant):
        check(column, key)
    if column.missing:
        return column
    # A column that has no constant of its own refuses, whatever the table's rule is.
    rule = "refuse" if missing == CONSTANT and column.constant is None else missing
    return replace(column, missing=rule)


def _check_name(column: ColumnConf, key: str) -> None:
    if not column.name:
        raise wrong(f"{key} has no name")


def _check_number(column: ColumnConf, key: str) -> None:
    ranged = column.type == NUMBER
    if not ranged and (column.low is not None or column.high is not None or column.unit):
        raise wrong(f"{column.name!r} ({key}) is a {column.type}, and has limits of a number")
    if ranged and (column.low is None or column.high is None or not column.low < column.high):
        # Without them one silo could move the mean of all to anywhere.
        raise wrong(f"{column.name!r} ({key}) is a number, and needs low < high")


def _check_values(column: ColumnConf, key: str) -> None:
    values = column.values
    if len(set(values)) < len(values):
        raise wrong(f"{column.name!r} ({key}) has a value twice")
    if column.type == CATEGORY and len(values) < 2:
        raise wrong(f"{column.name!r} ({key}) is a category, and needs its values")
    if column.type == FLAG and len(values) not in (0, 2):
        raise wrong(f"{column.name!r} ({key}) is a flag: its values are those for no and for yes")
    if values and column.type in (NUMBER, DATE):
        raise wrong(f"{column.name!r} ({key}) is a {column.type}, and has values of a category")
    if column.map and column.type not in (CATEGORY, FLAG):
        raise wrong(
            f"{column.name!r} ({key}) is a {column.type}: only values of a category have a map"
        )
    meant = set(meanings(column.map, f"{key}.map").values()) - set(values or NO_AND_YES)
    if meant:
        raise wrong(f"{column.name!r} ({key}) has a map to {min(meant)!r}, which it does not list")
    if column.other and column.type != CATEGORY:
        raise wrong(f"{column.name!r} ({key}) is a {column.type}: only a category has others")


def _check_constant(column: ColumnConf, key: str) -> None:
    if column.missing == CONSTANT and column.constant is None:
        raise wrong(f"{column.name!r} ({key}) has missing: constant, and no constant")
    if column.constant is not None and column.type not in (NUMBER, FLAG):
        raise wrong(f"{column.name!r} ({key}) is a {column.type}: only numbers have constants")


def _check_labels(labels: tuple[ColumnConf, ...]) -> None:
    for column in labels:
        if len(labels) > 1 and column.type != FLAG:
            raise wrong(f"{column.name!r} of task.labels is a {column.type}, not a flag")
        if column.type == DATE:
            raise wrong(f"the label {column.name!r} is a date")
        if column.other:
            raise wrong(f"the label {column.name!r} may not have other values")
