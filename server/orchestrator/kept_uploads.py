"""What has arrived of updates that take long, on this machine's disk: an orchestrator that is started
again has it, and their silos send the rest.

A file a node, of what it sends for one instruction's content: a line that says whose it is, then
records, each a line (which bytes of which object, and their digest) and the bytes. It grows at its
end only and is not synced: what a crash of the machine tears is found by its digest and left out,
and costs those bytes. An update that arrives within seconds is never written, and costs nothing.

The files are the owner's alone (0600 in 0700). They go when their silo is asked something else and
when the run ends. A disk that is nearly full, or fails, loses an upload nothing but this.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from strategies.wire.frames import Buffer

log = logging.getLogger(__name__)

AFTER_SECONDS: Final = 10.0
"""That an upload takes before it is kept: a restart then costs a silo this much at most."""
MOST_BYTES: Final = 4 * 2**30
"""Of all files together, as much as is set aside in memory; what is beyond is sent anew."""
SPARE_BYTES: Final = 2**30
"""Of the disk that are left to the run's own files: a full disk ends the run."""
MOST_LINE: Final = 4096
"""Bytes of a line; longer ones are none of ours."""
VERSION: Final = 1
_SUFFIX: Final = ".upload"


class Part(NamedTuple):
    """Some bytes of an object."""

    id: str
    size: int
    """Of the whole object."""
    start: int
    content: Buffer


@dataclass(frozen=True)
class KeptUpload:
    """What a file has of one node's reply to one content."""

    node: int
    content: str
    parts: Iterator[Part]
    """Read one by one; up to the first that is torn or damaged."""


@dataclass
class _File:
    content: str
    bytes: int = 0
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class KeptUploads:
    """The files of one run at a time; safe to use from any thread."""

    def __init__(
        self,
        folder: Path,
        after: float = AFTER_SECONDS,
        most: int = MOST_BYTES,
        spare: int = SPARE_BYTES,
    ) -> None:
        """`after` are the seconds that an upload takes before it is kept, `most` the bytes of all
        files, `spare` those that stay free on the disk.
        """
        self.after = after
        self._folder = folder
        self._most = most
        self._spare = spare
        self._lock = threading.Lock()
        self._run = ""
        self._files: dict[int, _File] = {}

    def open(self, run: str, nodes: Collection[int]) -> Iterator[KeptUpload]:
        """Yield what was kept of the uploads of a run's nodes, and delete what is of any other.

        A file is read while it is yielded, and ends afterwards where its last good part does.
        """
        self._run = run
        self._files.clear()
        for path in self._paths():
            try:
                yield from self._opened(path, nodes)
            except OSError as error:
                log.warning("%s can't be read, and is left out: %s", path, error.strerror)
                _remove(path)

    def has(self, node: int, content: str) -> bool:
        """Return whether a node's reply to a content is being kept, or was given up."""
        with self._lock:
            file = self._files.get(node)
            return file is not None and file.content == content

    def begin(self, node: int, content: str, parts: Iterable[Part]) -> None:
        """Keep a node's reply from now on, and what has arrived of it so far; once is enough."""
        file = _File(content)
        # Taken before anybody can see it: what is added meanwhile is written behind these parts.
        with file.lock:
            with self._lock:
                before = self._files.get(node)
                if before is not None and before.content == content:
                    return
                self._files[node] = file
            head = {"upload": VERSION, "run": self._run, "node": node, "content": content}
            try:
                self._make_folder()
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                with open(os.open(self._path(node), flags, 0o600), "wb") as stream:
                    stream.write(_line(head))
            except OSError as error:
                self._give_up(node, file, str(error.strerror))
            for part in parts:
                self._write(node, file, part)

    def add(self, node: int, content: str, part: Part) -> None:
        """Keep another part of a reply that is being kept."""
        with self._lock:
            file = self._files.get(node)
        if file is None or file.content != content:
            return
        with file.lock:
            self._write(node, file, part)

    def _write(self, node: int, file: _File, part: Part) -> None:
        """Write a part behind the others; holds the file's lock."""
        if file.failed:
            return
        head = {
            "id": part.id,
            "size": part.size,
            "start": part.start,
            "length": len(part.content),
            "sha256": hashlib.sha256(part.content).hexdigest(),
        }
        record = _line(head) + part.content
        with self._lock:
            kept = sum(one.bytes for one in self._files.values())
        if kept + len(record) > self._most:
            self._give_up(node, file, f"more than {self._most} bytes of all uploads")
            return
        try:
            self._append(node, record)
        except OSError as error:
            self._give_up(node, file, str(error.strerror))
        else:
            file.bytes += len(record)

    def drop(self, node: int, unless: str = "") -> None:
        """Delete what is kept of a node's reply, unless it answers a content."""
        with self._lock:
            file = self._files.get(node)
            if file is None or file.content == unless:
                return
            del self._files[node]
            file.failed = True
            # Under this lock, so that it can't be the file that `begin` makes next.
            _remove(self._path(node))

    def clear(self) -> None:
        """Delete everything: the run has ended, or there is none."""
        with self._lock:
            nodes = list(self._files)
        for node in nodes:
            self.drop(node)
        for path in self._paths():
            _remove(path)

    def _opened(self, path: Path, nodes: Collection[int]) -> Iterator[KeptUpload]:
        with open(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "rb+") as stream:
            head = _fields(stream.readline(MOST_LINE), upload=int, run=str, node=int, content=str)
            is_ours = (
                head is not None
                and head["upload"] == VERSION
                and head["run"] == self._run
                and head["node"] in nodes
                and path == self._path(head["node"])
            )
            if head is None or not is_ours:
                _remove(path)
                return
            good = [stream.tell()]
            yield KeptUpload(head["node"], head["content"], _parts(stream, good))
            # What follows the last good part would hide all that is written behind it.
            stream.truncate(good[0])
        with self._lock:
            self._files[head["node"]] = _File(head["content"], good[0])

    def _append(self, node: int, record: bytes) -> None:
        if shutil.disk_usage(self._folder).free < self._spare + len(record):
            raise OSError(0, f"less than {self._spare} bytes are free on its disk")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._path(node), flags), "ab") as stream:
            stream.write(record)

    def _give_up(self, node: int, file: _File, why: str) -> None:
        """Keep no more of a reply, and free its bytes; it goes on in memory."""
        log.warning(
            "an upload is not kept on disk, a restart would cost its silo the whole: %s", why
        )
        file.failed = True
        file.bytes = 0
        _remove(self._path(node))

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.lstat()
        private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
        if not private or status.st_uid != os.geteuid():
            raise OSError(0, f"{self._folder} is not this user's alone")

    def _path(self, node: int) -> Path:
        return self._folder / f"{node}{_SUFFIX}"

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))


def _parts(stream: BinaryIO, good: list[int]) -> Iterator[Part]:
    """Yield the parts of a file, and note where the last good one ends."""
    while True:
        line = stream.readline(MOST_LINE)
        head = _fields(line, id=str, size=int, start=int, length=int, sha256=str)
        if head is None or not 0 <= head["length"] <= os.fstat(stream.fileno()).st_size:
            return
        content = stream.read(head["length"])
        if hashlib.sha256(content).hexdigest() != head["sha256"]:
            return
        good[0] = stream.tell()
        yield Part(head["id"], head["size"], head["start"], content)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _fields(line: bytes, **types: type) -> dict[str, Any] | None:
    """Return the fields of a line, None where it is torn or of another shape."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(types):
        return None
    whole = all(type(found[name]) is kind for name, kind in types.items())
    return found if whole else None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s can't be deleted: %s", path, error.strerror)
