"""A reader who types what the README says gets what it says: each marked block is run, in order, in one folder.

The quick test calls the command line in this process, on the pool and with little data; the nightly
one types the commands as they are written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.typed_pages import ROOT, called, read_on, typed

PAGE = "README.md"


def check(folder: Path, printed: list[str]) -> None:
    """Check what a reader would look at afterwards."""
    assert "first" in os.listdir(folder / "outputs")
    for made in ("result.json", "report.html", "model/model.safetensors"):
        assert (folder / "outputs" / "first" / made).is_file()
    assert (folder / "grapes.csv").is_file()
    assert len(list((folder / "outputs").glob("sweep-*/*/result.json"))) == 2
    assert any("accuracy" in text for text in printed)


def test_the_readmes_commands_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(tmp_path, read_on(PAGE, tmp_path, called))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readmes_commands_as_they_are_written(tmp_path: Path) -> None:
    check(tmp_path, read_on(PAGE, tmp_path, typed))


def test_the_first_commands_are_at_the_top() -> None:
    first = re.search(r"```bash\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == [
        "make simulate",
        'make simulate ARGS="simulation=ray run.baseline=none"',
    ]
    assert {"simulate:", "test:"} <= set(
        re.findall(r"^[a-z-]+:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
