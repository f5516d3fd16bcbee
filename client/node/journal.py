"""What a silo keeps on its node's disk: its last finished update, so that no crash costs a training
twice. Its state is elsewhere (`client.node.state_store`), because such a disk may end with a job.

A file is a line of JSON (what it is, which objects follow) and the objects of Flower's wire as they
travel, each named by its SHA-256, so a torn or damaged file is recognised and not used. Files are
the owner's alone and replaced whole (`conf.files`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flwr.app import RecordDict

from conf.errors import WireError
from conf.files.whole import TEMPORARY, make_folder, write_atomic
from strategies.wire.frames import Buffer, Content, pieces_of
from strategies.wire.objects import inflate_content

log = logging.getLogger(__name__)

TRANSFER: Final = "transfer.json"
"""How the last transfer that took long goes on: `direction`, `left` (bytes, 0 when it is over),
`rate` (bytes a second), `at` (seconds since 1970)."""
LARGEST: Final = 16 * 2**30
"""Bytes of arrays that a kept file may have: more than any update that may travel."""
_HEAD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class InstructionKey:
    """Which instruction an update answers: Meadow's run id, the round, and the id of the
    instruction's content.
    """

    run: str
    round: int
    content: str


class UpdateJournal:
    """One silo's folder of what it has finished."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, if need be; raises FileFault where it can't be."""
        make_folder(folder, 0o700)
        self._folder = folder
        # What can't be removed now takes room and harms nobody.
        with suppress(OSError):
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink()

    def keep_update(self, key: InstructionKey, root: str, contents: Mapping[str, Content]) -> None:
        """Keep the content `root` of the answer to an instruction, in place of the one before."""
        self._write("update", {"instruction": asdict(key)}, root, contents)

    def update(self, content: str) -> RecordDict | None:
        """Return the kept answer to the instruction with this content; None where there is none, or
        it is damaged.
        """
        return self._read("update", content)

    def forget(self, run: str | None = None, older_than: float | None = None) -> int:
        """Delete the kept update and return its bytes, 0 where there is none.

        Of one `run` alone, and where it was written before `older_than` (seconds since 1970).
        Raises OSError.
        """
        path = self._folder / "update"
        try:
            found = path.stat()
        except FileNotFoundError:
            return 0
        if older_than is not None and found.st_mtime >= older_than:
            return 0
        if run is not None and self._run_of(path) != run:
            return 0
        path.unlink()
        return found.st_size

    def _run_of(self, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                return str(json.loads(file.readline(_HEAD_BYTES))["instruction"]["run"])
        except (ValueError, TypeError, LookupError):
            # Damaged, so of no use to anybody, and of no run that can be named.
            return None

    def note_transfer(self, direction: str, left: int, rate: float) -> None:
        """Say in `TRANSFER` how a transfer that takes long goes on: a direction, bytes left, bytes a
        second.
        """
        said = {"direction": direction, "left": left, "rate": round(rate), "at": time.time()}
        try:
            write_atomic(self._folder / TRANSFER, [json.dumps(said).encode()], mode=0o600)
        except OSError as error:
            log.info("how the transfer goes on could not be written: %s", error)

    def _write(
        self, name: str, what: dict[str, Any], root: str, contents: Mapping[str, Content]
    ) -> None:
        sizes = [[id, len(content)] for id, content in contents.items()]
        head = json.dumps({**what, "root": root, "objects": sizes}).encode() + b"\n"
        pieces: list[Buffer] = [head]
        for content in contents.values():
            pieces += pieces_of(content)
        write_atomic(self._folder / name, pieces, mode=0o600)

    def _read(self, name: str, content: str) -> RecordDict | None:
        try:
            with open(self._folder / name, "rb") as file:
                head = json.loads(file.readline(_HEAD_BYTES))
                if head["instruction"]["content"] != content:
                    return None
                left = os.fstat(file.fileno()).st_size
                if any(not 0 <= size <= left for _, size in head["objects"]):
                    raise ValueError("an object is longer than the file")
                contents = {str(id): file.read(size) for id, size in head["objects"]}
            if any(hashlib.sha256(content).hexdigest() != id for id, content in contents.items()):
                raise ValueError("an object is damaged")
            return inflate_content(str(head["root"]), contents, LARGEST)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, WireError) as error:
            log.warning("%s can't be used, continuing without it: %s", self._folder / name, error)
            return None
