"""A reader who types what docs/tables.md says gets two trained tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.typed_pages import called, read_on


def test_what_the_page_says_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read_on("docs/tables.md", tmp_path, called)
    for run, least in (("tumours", 0.9), ("outcome", 0.5)):
        result = json.loads((tmp_path / "outputs" / run / "result.json").read_text())
        assert result["status"] == "finished"
        assert result["final"]["accuracy"] > least
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "place,prediction,p_well,p_ill"
    assert len(lines) == 201
