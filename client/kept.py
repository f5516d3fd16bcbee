"""What a silo keeps on its own disk: its last finished update and its state, so that no crash costs a training twice.

A file is a line of JSON (what it is, which objects follow) and the objects of Flower's wire as they travel, each
named by its SHA-256, so a torn or damaged file is recognised and not used. Files are the owner's alone and replaced
whole: temporary file, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import InflatableObject

from conf.errors import WireError
from strategies.objects import deflate, inflate_content

log = logging.getLogger(__name__)

LARGEST: Final = 16 * 2**30
"""Bytes of arrays that a kept file may have: more than any update that may travel."""
_HEAD_BYTES = 64 * 2**20
ANCHORS: Final = "anchors.jsonl"
"""The server's anchors, a line a round; `meadow report --verify` compares a ledger with it."""


@dataclass(frozen=True)
class Question:
    """What a silo was asked: Meadow's run id, the round, and the id of the instruction's content."""

    run: str
    round: int
    content: str


class Kept:
    """One silo's folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, if need be; raises OSError where it can't be written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        for left in folder.glob(".tmp-*"):
            left.unlink()

    def keep_update(self, question: Question, root: str, objects: Mapping[str, InflatableObject]) -> None:
        """Keep the content `root` of the answer to a question, in place of the one before."""
        self._write("update", {"question": asdict(question)}, root, objects)

    def update(self, question: Question) -> RecordDict | None:
        """Return the kept answer to this very question; None where there is none, or it is damaged."""
        found = self._read("update", {"question": asdict(question)})
        return found

    def keep_anchor(self, run: str, round: int, anchor: str) -> None:
        """Append what the server says its ledger was after a round: a JSON line, for who audits the run."""
        line = json.dumps({"run": run, "round": round, "anchor": anchor[:200]}).encode() + b"\n"
        file = os.open(self._folder / ANCHORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(file).st_size
            if os.write(file, line) < len(line):
                os.ftruncate(file, size)  # a full disk: half a line would spoil the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    def keep_state(self, run: str, state: RecordDict) -> None:
        """Keep a run's state, in place of the one before."""
        root, _, objects = deflate(state)
        self._write("state", {"run": run}, root, objects)

    def state(self, run: str) -> RecordDict:
        """Return a run's state; empty where there is none, or it is damaged."""
        return self._read("state", {"run": run}) or RecordDict()

    def _write(self, name: str, what: dict[str, Any], root: str, objects: Mapping[str, InflatableObject]) -> None:
        contents = {id: one.deflate() for id, one in objects.items()}
        sizes = [[id, len(content)] for id, content in contents.items()]
        head = json.dumps({**what, "root": root, "objects": sizes}).encode() + b"\n"
        temporary = self._folder / f".tmp-{name}-{os.getpid()}"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.writelines([head, *contents.values()])
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
            _sync(self._folder)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _read(self, name: str, what: dict[str, Any]) -> RecordDict | None:
        try:
            with open(self._folder / name, "rb") as file:
                head = json.loads(file.readline(_HEAD_BYTES))
                if any(head.get(key) != value for key, value in what.items()):
                    return None
                contents = {str(id): file.read(int(size)) for id, size in head["objects"]}
            if any(hashlib.sha256(content).hexdigest() != id for id, content in contents.items()):
                raise ValueError("an object is damaged")
            return inflate_content(str(head["root"]), contents, LARGEST)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, WireError) as error:
            log.warning("%s can't be used, going on without it: %s", self._folder / name, error)
            return None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
