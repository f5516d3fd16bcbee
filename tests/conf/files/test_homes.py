"""A user without a home is told so, and everybody else finds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conf.files.faults import FileFault
from conf.files.homes import cache_folder, expanded


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is only a number."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert expanded("~/data") == Path("/home/ada/data") and expanded("/a") == Path("/a")
    assert cache_folder() == Path("/home/ada/.cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache")


@pytest.mark.usefixtures("nobody")
def test_none_is_said_with_the_path_and_a_path_from_the_root_will_do() -> None:
    with pytest.raises(FileFault, match=r"MDW-537: ~/data can't be found"):
        expanded("~/data")
    with pytest.raises(FileFault, match="MDW-537"):
        cache_folder()
    assert expanded("/data") == Path("/data")


def test_the_home_of_somebody_who_is_not_there_is_none() -> None:
    with pytest.raises(FileFault, match="MDW-537"):
        expanded("~nobody-of-this-name/data")
