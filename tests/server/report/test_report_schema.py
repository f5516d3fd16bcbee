"""docs/results.md names every field of result.json, and no field that is not there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from server.run.result import SCHEMA_VERSION, Baseline, FinalTest, RoundRecord, RunResult
from tests.server.sample_results import sample

PAGE = (Path(__file__).parents[3] / "docs" / "results.md").read_text()


def documented(heading: str) -> set[str]:
    """Return the names in the first column of the table below a heading."""
    section = re.split(r"^##+ ", PAGE.split(heading + "\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[
        0
    ]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("## result.json", RunResult),
        ("### The test", FinalTest),
        ("### A round", RoundRecord),
        ("### The baseline", Baseline),
    ],
)
def test_the_page_names_every_field_and_no_other(heading: str, schema: type) -> None:
    assert documented(heading) == {field.name for field in dataclasses.fields(schema)}


def test_the_page_names_the_version() -> None:
    assert f"`schema_version` is {SCHEMA_VERSION};" in PAGE


def test_a_result_is_the_same_after_writing_and_reading() -> None:
    made = sample()
    assert RunResult.from_json(made.to_json()).to_json() == made.to_json()
    assert set(json.loads(made.to_json())) == documented("## result.json")
