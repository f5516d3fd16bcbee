"""Each error code has its paragraph in docs/errors.md, and belongs to the class of its range."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from conf import errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "strategies", "client", "server", "azureml_jobs")
CODE = re.compile(r"MDW-\d{3}")
HEADING = re.compile(r"^### (MDW-\d{3}) · .+$", re.MULTILINE)
DIGIT = {"ConfigError": 1, "DataError": 2, "SiloError": 3, "RoundError": 4, "CheckpointError": 5,
         "WireError": 6, "IdentityError": 7, "AzureError": 8, "Interrupted": 9}  # fmt: skip


def sources() -> list[Path]:
    """Return every Python file of the packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def codes_in_source() -> set[str]:
    """Return every code that a string of the packages names."""
    return {code for path in sources() for code in CODE.findall(path.read_text())}


def sections() -> dict[str, str]:
    """Return the text of each code's section of the page."""
    parts = HEADING.split((ROOT / "docs" / "errors.md").read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_code_has_a_paragraph_and_every_paragraph_a_code() -> None:
    assert sorted(codes_in_source() - set(sections())) == [], "write a paragraph in docs/errors.md"
    assert sorted(set(sections()) - codes_in_source()) == [], (
        "no longer used: remove from docs/errors.md"
    )


def test_every_paragraph_says_what_happened_and_what_to_do() -> None:
    for code, text in sections().items():
        happened, resolve, todo = text.partition("**To resolve:**")
        assert (
            resolve and len(happened.strip()) > 30 and len(todo.split("\n## ")[0].strip()) > 15
        ), code


def test_each_code_once_and_in_order() -> None:
    found = HEADING.findall((ROOT / "docs" / "errors.md").read_text())
    assert found == sorted(set(found))


def test_a_code_belongs_to_the_class_of_its_range() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (
                isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
            ):
                continue
            name = (
                node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            )
            code = str(node.args[0].value)
            if name in DIGIT and CODE.fullmatch(code) and int(code[4]) != DIGIT[name]:
                wrong.append(f"{path.name}:{node.lineno}: {name}({code})")
    assert wrong == []


def test_the_page_names_the_exit_status_of_each_class() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    for name, digit in DIGIT.items():
        status = getattr(errors, name).exit_status
        code = "MDW-900" if digit == 9 else f"MDW-{digit}xx"
        assert re.search(rf"^\| {code} \| .+ \| {status} \|$", page, re.MULTILINE), name
