"""A base image's Python and platform are said in one place, and Dockerfiles and pages agree with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from azureml_jobs.environments import bases as declared
from azureml_jobs.environments.bases import base_of, bases, images

ROOT = Path(__file__).parents[3]
OLDEST = (3, 11)
NEWEST = (3, 13)


def test_each_image_stands_on_a_declared_base() -> None:
    folders = {file.parent.name for file in declared.FOLDER.glob("*/Dockerfile")}
    assert folders == set(images())


@pytest.mark.parametrize("name", sorted(images()))
def test_the_python_of_a_base_is_one_that_meadow_supports(name: str) -> None:
    python = tuple(map(int, images()[name].base.python.split(".")))
    assert OLDEST <= python <= NEWEST


@pytest.mark.parametrize("name", sorted(images()))
def test_a_dockerfile_names_the_digest_that_is_declared_or_says_that_there_is_none(
    name: str,
) -> None:
    image = images()[name]
    text = (image.folder / "Dockerfile").read_text()
    assert re.search(rf"^FROM {re.escape(image.base.reference)}$", text, re.MULTILINE)
    assert ("not pinned" in text) == (image.base.digest is None)


def test_the_last_stage_of_a_dockerfile_is_what_counts(tmp_path: Path) -> None:
    (base, *_) = bases().values()
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM golang:1 AS tools\nFROM --platform=linux/amd64 {base.image}\n")
    assert base_of(tmp_path) == base
    dockerfile.write_text(f"FROM {base.image}@sha256:{'0' * 64}\n")
    assert base_of(tmp_path) == base


@pytest.mark.parametrize("text", ["", "FROM example.org/my/own:1\n"])
def test_a_base_that_nobody_declared_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    assert base_of(tmp_path) is None
