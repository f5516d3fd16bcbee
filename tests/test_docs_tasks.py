"""A reader who types what docs/tasks.md says gets two trained tasks of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.typed_pages import called, read_on


def test_what_the_page_says_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read_on("docs/tasks.md", tmp_path, called)
    wine = final(tmp_path, "wine")
    assert wine["accuracy"] > 0.8 and set(wine) == {"accuracy", "f1", "loss"}
    assert set(final(tmp_path, "tags")) == {"accuracy", "f1", "loss"}


def final(folder: Path, run: str) -> dict[str, float]:
    result = json.loads((folder / "outputs" / run / "result.json").read_text())
    assert result["status"] == "finished"
    return {name: value for name, value in result["final"].items() if "train" not in name}
