"""result.json of another version or damaged is refused with a code that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf.errors import CheckpointError
from server.run.result import RunResult
from tests.server.sample_results import sample


@pytest.mark.parametrize("version", [99, 1])
def test_another_version_is_refused_and_both_are_named(tmp_path: Path, version: int) -> None:
    raw = json.loads(sample().to_json()) | {"schema_version": version}
    (tmp_path / "result.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=rf"MDW-505.*version {version};.*version 2\."):
        RunResult.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema_version": 2}', '{"schema_version": 2, "baseline": 3}', "[1]", "\0"]
)
def test_what_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"MDW-504.*result\.json"):
        RunResult.read(tmp_path)


def test_its_size_does_not_depend_on_the_rounds() -> None:
    assert abs(len(sample(3, 100).to_json()) - len(sample(3, 10).to_json())) < 200
