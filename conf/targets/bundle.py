"""What a job needs of the code from outside this tree: copied into its folder, with its list."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from conf.errors import ConfigError
from conf.files.whole import ORDINARY, write_new
from conf.schema import Conf
from conf.targets import known
from conf.targets.known import Known
from conf.targets.sources import Sources

FOLDER: Final = "outside"
"""In a job's folder; below it one folder for each digest."""


def entries_of(conf: Conf) -> list[Known]:
    """Return the entries of what a configuration names from outside this tree."""
    found = []
    for group in known.GROUPS:
        own = getattr(conf, group)
        code = getattr(own, "code", "")
        if code:
            found.append(known.find(group, own.name, code))
    return found


def bundled(conf: Conf, folder: Path, seen_from: Path) -> list[Known]:
    """Copy what a configuration names into a job's folder; return the job's list.

    `seen_from` is where the job works: its targets begin there. Packages that are installed are not
    copied: the job's own environment has to have them. Raises ConfigError MDW-177 where a file
    changed meanwhile.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return [_bundled(entry, folder, seen_from) for entry in entries_of(conf)]


def _bundled(entry: Known, folder: Path, seen_from: Path) -> Known:
    key = f"{entry.group}.target"
    sources = known.sources_of(entry.target, key)
    if sources.place.installed:
        return entry
    place = folder / FOLDER / entry.code[:16]
    _copy(sources, place)
    own = place / sources.place.file.relative_to(sources.place.root)
    target = f"{own}:{sources.place.attribute}"
    if known.sources_of(target, key).digest != entry.code:
        what = f"{entry.group} {entry.name}: its code changed while it was copied."
        raise ConfigError("MDW-177", what, "Launch again.")
    seen = f"{os.path.relpath(own, seen_from)}:{sources.place.attribute}"
    return Known(entry.group, entry.name, entry.code, seen)


def _copy(sources: Sources, place: Path) -> None:
    for source in sources.files.values():
        to = place / source.path.relative_to(sources.place.root)
        to.parent.mkdir(parents=True, exist_ok=True)
        write_new(to, source.path.read_bytes(), mode=ORDINARY)
