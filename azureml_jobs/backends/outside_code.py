"""Code from outside the tree in a local job's folder: copied at its start, known while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from conf.files.whole import write_atomic
from conf.schema import Conf
from conf.targets.bundle import bundled, entries_of
from conf.targets.known import Known, from_text, to_text

LIST: Final = "outside.json"
"""In a job's folder: the list that the job was started with."""


def given(conf: Conf, folder: Path) -> str:
    """Return the list for a job that starts in a folder, its code copied there.

    A job that is started again with the same code keeps the copies that it has.
    """
    file = folder / LIST
    if _named(listed(folder)) != _named(entries_of(conf)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(file, to_text(bundled(conf, folder, folder)))
    return file.read_text() if file.exists() else to_text([])


def missing(conf: Conf, folder: Path) -> list[str]:
    """Return the keys of what a configuration names and the job in a folder was not started with."""
    has = _named(listed(folder))
    named = {f"{entry.group}.target" for entry in entries_of(conf) if _name(entry) not in has}
    return sorted(named)


def listed(folder: Path) -> list[Known]:
    """Return the list that the job in a folder was started with."""
    file = folder / LIST
    return list(from_text(file.read_text())) if file.exists() else []


def _name(entry: Known) -> tuple[str, str, str]:
    return entry.group, entry.name, entry.code


def _named(entries: list[Known]) -> set[tuple[str, str, str]]:
    return {_name(entry) for entry in entries}
