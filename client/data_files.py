"""Which files a silo's data is, and a fingerprint of them that tells others of a change and of nothing
else.

What is looked at of each file is its path below the root, its size, the times of its last change and
its inode: not its content, so that a look costs microseconds a file. A file that was written again
with another content has other times, unless its clock was set back or two writes fell into one tick
of the file system.

The fingerprint is made of the files' names, sizes and contents where they are few and small, of
their names, sizes and times of change otherwise. The same one twice says that nothing changed of
that. Another one says that something did: the examples, or for a large set perhaps only a time. It is
keyed (HMAC), so that who does not have the silo's key can't try data of their own against it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conf.errors import DataError
from conf.files.faults import disk, shown
from conf.files.homes import expanded

SMALL_BYTES: Final = 64 * 2**20
SMALL_FILES: Final = 1000
"""Up to here the content is read for a fingerprint: a fraction of a second."""
COST: Final = 20.0
"""Looks take at most one part in so many of a process's time: a folder of a million files is not
looked at before each round.
"""
TRIES: Final = 3
MAC: Final = 32
"""Characters of a fingerprint's digest, 128 bits; `KEY_ID` says with which key it was made."""
KEY_ID: Final = 8


@dataclass(frozen=True)
class FileFacts:
    """What the file system says of one file: its path below the root, and what a change changes."""

    path: str
    size: int
    modified: int
    changed: int
    inode: int


Files = tuple[FileFacts, ...]


@dataclass
class _Look:
    at: float
    took: float
    files: Files


_looks: dict[str, _Look] = {}
_digests: dict[str, tuple[Files, str]] = {}
"""By root, of the files that were read last."""


def files_at(root: str | None) -> Files:
    """Return the files at or below a root, in order; none where it is not set, or not there.

    One that was looked at a moment ago is not looked at again (`COST`).
    """
    if root is None:
        return ()
    place = str(expanded(root))
    now = time.monotonic()
    last = _looks.get(place)
    if last is not None and now - last.at < COST * last.took:
        return last.files
    files = tuple(_looked(place))
    _looks[place] = _Look(time.monotonic(), time.monotonic() - now, files)
    return files


def seen_anew(root: str | None) -> Files:
    """Return the files at or below a root, looked at now."""
    if root is not None:
        _looks.pop(str(expanded(root)), None)
    return files_at(root)


def changing(root: str | None) -> DataError:
    """Return the error for data that somebody writes while it is read."""
    return DataError(
        "MDW-216",
        f"data.root={shown(root)}: its files change while they are read.",
        "Write data elsewhere and rename it into its place, or wait until it is complete.",
    )


def fingerprint(root: str | None, files: Files, key: bytes) -> str:
    """Return what others may be told of the files: which key it is made with, and the digest.

    Empty without files or key. Raises FileFault where one can't be read.
    """
    if root is None or not files or not key:
        return ""
    place = str(expanded(root))
    known = _digests.get(place)
    if known is None or known[0] != files:
        known = _digests[place] = (files, _digest(Path(place), files))
    mac = hmac.new(key, known[1].encode(), hashlib.sha256).hexdigest()[:MAC]
    return f"{hashlib.sha256(b'id of ' + key).hexdigest()[:KEY_ID]}-{mac}"


def _looked(place: str) -> Iterable[FileFacts]:
    paths = [place]
    if os.path.isdir(place):
        paths = [
            os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names
        ]
    for path in sorted(paths):
        try:
            facts = os.stat(path)
        except OSError:
            # A link to nothing, or removed just now: what reads it will say so.
            continue
        # What `os.path.relpath` says of it, which takes as long as the look.
        below = path[len(place) :].lstrip(os.sep) or os.curdir
        yield FileFacts(below, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def _digest(root: Path, files: Files) -> str:
    small = len(files) <= SMALL_FILES and sum(one.size for one in files) <= SMALL_BYTES
    whole = hashlib.sha256(b"content" if small else b"times")
    for one in files:
        name = os.fsencode(one.path)
        told = _content(root, one) if small else str(one.modified).encode()
        for part in (name, str(one.size).encode(), told):
            whole.update(b"%d:" % len(part) + part)
    return whole.hexdigest()


def _content(root: Path, one: FileFacts) -> bytes:
    path = root if one.path == os.curdir else root / one.path
    # A pipe or a device among the files is no data.
    if not path.is_file():
        return b""
    with disk("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
