"""A reader who types what docs/tasks.md says gets two trained tasks of their own."""

from __future__ import annotations

import json
import runpy
import shlex
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from tests.test_docs_readme import BLOCK, QUICK

ROOT = Path(__file__).parents[1]


def test_what_the_page_says_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for marker, language, text in BLOCK.findall((ROOT / "docs/tasks.md").read_text()):
        if language == "bash":
            for line in text.splitlines():
                assert main([*shlex.split(line)[1:], *QUICK]) == 0, line
            continue
        path = tmp_path / marker.removeprefix("file: ").replace("run", "block.py")
        path.write_text(text)
        if marker == "run":
            runpy.run_path(str(path), run_name="__main__")
    wine = final(tmp_path, "wine")
    assert wine["accuracy"] > 0.8 and set(wine) == {"accuracy", "f1", "loss"}
    assert set(final(tmp_path, "tags")) == {"accuracy", "f1", "loss"}


def final(folder: Path, run: str) -> dict[str, float]:
    result = json.loads((folder / "outputs" / run / "result.json").read_text())
    assert result["status"] == "finished"
    return {name: value for name, value in result["final"].items() if "train" not in name}
