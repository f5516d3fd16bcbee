"""What the tables of faults and of attacks promise has a test: it is there, and runs when they say so."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = {
    "docs/federation.md": "\n## Faults\n",
    "docs/security.md": "\n## What can be done, and what stands against it\n",
}
QUICK = "°"
"""What marks a row, or a part of it, that `make test` runs."""
PROOF = re.compile(r"`((?:tests/(?:[\w/]+/)?)?test_\w+\.py)(?:::(\w+))?`")
ELSEWHERE = ("`make chaos`", "`benchmarks/")
"""What proves a row besides tests."""


@dataclass(frozen=True)
class Row:
    """One row: what could happen, and the cell that names what proves it."""

    page: str
    what: str
    cell: str

    def tests(self) -> list[tuple[str, str]]:
        """Return the files, with functions or none, that the cell names.

        A bare name is that of a file beside the one before.
        """
        found = []
        folder = ""
        for path, function in PROOF.findall(self.cell):
            if "/" in path:
                folder = path.rpartition("/")[0]
            found.append((path if "/" in path else f"{folder}/{path}", function))
        return found


def rows() -> list[Row]:
    found = []
    for page, heading in TABLES.items():
        section = (ROOT / page).read_text().split(heading)[1].split("\n## ")[0]
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            if line.startswith("| ") and not set(line) <= set("|- ") and cells[-1] != "test":
                found.append(Row(page, " | ".join(cells[:-1]), cells[-1]))
    return found


@cache
def functions(path: str) -> dict[str, bool]:
    """Return the test functions of a file, each with whether it is marked slow."""
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.dump(node.targets[0])
    ]
    whole = any("attr='slow'" in ast.dump(mark) for mark in marks)
    return {
        node.name: whole or any(_is_slow(one) for one in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _is_slow(decorator: ast.expr) -> bool:
    """Return whether a mark is of the whole function, and not of one of its parameters."""
    return isinstance(decorator, ast.Attribute) and decorator.attr == "slow"


ROWS = rows()


def test_the_tables_are_read() -> None:
    """A heading or a form that changed would leave the tests below with nothing to look at."""
    by_page = {page: [row for row in ROWS if row.page == page] for page in TABLES}
    assert all(len(found) > 40 for found in by_page.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what[:60])
def test_a_row_names_tests_that_are_there(row: Row) -> None:
    named = row.tests()
    assert named or any(one in row.cell for one in ELSEWHERE), row.cell
    for path, function in named:
        assert (ROOT / path).is_file(), path
        assert not function or function in functions(path), f"{path}::{function}"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if QUICK in row.what], ids=lambda row: row.what[:60]
)
def test_what_is_marked_so_runs_in_make_test(row: Row) -> None:
    quick = [
        name
        for path, function in row.tests()
        for name, slow in functions(path).items()
        if not slow and function in ("", name)
    ]
    assert quick, f"{row.cell} is slow"


@pytest.mark.parametrize("folder", ["security", "faults"])
def test_each_file_of_attacks_and_faults_is_in_a_table(folder: str) -> None:
    named = {path for row in ROWS for path, _ in row.tests()}
    there = {str(file.relative_to(ROOT)) for file in (ROOT / "tests" / folder).glob("test_*.py")}
    assert sorted(there - named) == []
