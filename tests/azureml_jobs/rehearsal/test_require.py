"""A rehearsal's packages are an extra: without them the verb says what to install."""

from __future__ import annotations

import importlib.util
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from azureml_jobs import rehearsal
from azureml_jobs.cli.main import main

ROOT = Path(__file__).parents[3]


def test_without_a_package_the_verb_names_it_and_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name in ("jwt", "uvicorn") else importlib.util.find_spec(name)

    monkeypatch.setattr(rehearsal, "find_spec", find)
    assert main(["rehearse"]) == 9
    said = capsys.readouterr().err
    assert "MDW-875: A rehearsal needs uvicorn, pyjwt" in said
    assert "pip install '.[rehearsal]'" in said


def test_the_extra_is_what_is_looked_for_and_no_dependency_of_a_job() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {one.partition(">")[0] for one in project["optional-dependencies"]["rehearsal"]}
    assert extra == set(rehearsal.NEEDED.values())
    assert not extra & {one.partition(">")[0] for one in project["dependencies"]}
