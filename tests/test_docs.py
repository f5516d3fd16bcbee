"""What the pages say is so: links, file names, named tests and dependencies exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from supply.pins import read

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
NAMED_FILE = re.compile(
    r"`((?:conf|server|client|strategies|azureml_jobs|docs|benchmarks)/[\w/]*(?:\.\w+)?)`"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {pin.key for pin in read(ROOT / "requirements.lock")}


def name(page: Path) -> str:
    """Return a page's path as a test's id."""
    return str(page.relative_to(ROOT))


def normal(package: str) -> str:
    """Return a package's name as the index compares it, without extras or version."""
    bare = re.split(r"[\[<>=!~ ;]", package, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", bare).lower()


def dependencies() -> set[str]:
    """Return the names of all declared dependencies."""
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]
    return {normal(one) for one in declared} - {
        "meadow-federated"
    }  # its own extra, named by another


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [
        link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()
    ] == []


@pytest.mark.parametrize(
    "page",
    [ROOT / one for one in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/guarantees.md")],
    ids=name,
)
def test_named_files_exist(page: Path) -> None:
    assert [one for one in NAMED_FILE.findall(page.read_text()) if not (ROOT / one).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_tests_exist(page: Path) -> None:
    missing = []
    for path, function in NAMED_TEST.findall(page.read_text()):
        tree = (
            ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.Module([], [])
        )
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if not (ROOT / path).exists() or (function and function not in names):
            missing.append(f"{path}::{function}")
    assert missing == []


def test_nothing_tells_people_to_install_meadow_by_a_name_of_the_index() -> None:
    """Nobody owns the distribution's name there yet: whoever does may upload anything."""
    by_name = re.compile(rf"pip install[^\n]*['\" ](?:meadow|{PROJECT['name']})\b")
    folders = ("conf", "strategies", "client", "server", "azureml_jobs")
    modules = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    told = [file for file in [*PAGES, *modules] if by_name.search(file.read_text())]
    assert told == []


@pytest.mark.parametrize(
    ("page", "heading", "least"),
    [("README.md", "## Guarantees", 6), ("docs/guarantees.md", "# What Meadow promises", 30)],
)
def test_every_guarantee_names_its_test(page: str, heading: str, least: int) -> None:
    table = (ROOT / page).read_text().split(heading)[1].split("\n#")[0]
    rows = [row for row in table.splitlines() if row.startswith("|")][2:]
    assert len(rows) >= least
    assert all(NAMED_TEST.search(row.split("|")[2]) for row in rows)


def test_every_dependency_has_its_line_and_every_line_a_dependency() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    first_cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert {
        normal(one) for cell in first_cells for one in re.findall(r"`([^`]+)`", cell)
    } == dependencies()


def test_the_lock_holds_every_dependency() -> None:
    assert dependencies() - LOCK == set()


CHANGES = (ROOT / "docs" / "architecture.md").read_text().split("## Where to change what")[1]
ROWS = [line for line in CHANGES.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]


def test_the_table_of_changes_answers_for_thirty() -> None:
    assert len({row.split("|")[1] for row in ROWS}) == len(ROWS) >= 30


@pytest.mark.parametrize("row", ROWS)
def test_each_change_leads_to_files_that_are_there(row: str) -> None:
    paths = re.findall(r"`([a-z][\w<>./]*/[\w<>./]*)`", row)
    assert paths or "metrics" in row
    for path in paths:
        # `<name>` stands for whatever is there already.
        assert list(ROOT.glob(path.replace("<name>", "[a-z]*").rstrip("/"))), path
