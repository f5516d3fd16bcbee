"""The release is known where Meadow is installed, and in a source tree that is not."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from conf.meadow_version import DISTRIBUTION, release


def test_an_installed_distribution_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: f"9.9 of {name}")
    assert release() == f"9.9 of {DISTRIBUTION}"


def test_a_source_tree_says_that_of_its_project_and_any_other_folder_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert release() != "" and release(tmp_path) == ""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\nversion = '3'\n")
    assert release(tmp_path) == ""
    (tmp_path / "pyproject.toml").write_bytes(b"\xff[")
    assert release(tmp_path) == ""
