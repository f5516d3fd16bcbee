"""The states of a simulation's silos, in one file beside the checkpoints.

A silo's state (`Context.state`) changes only in rounds in which its update counts. When a round
closes, the new states of these silos are appended, each an entry with a digest
(`client.state_entry`); nothing is written for the others, and there is no file where no silo has a
state. The checkpoint marks how much of the file counts: a resumed run gives each silo its last
state up to the mark, and cuts off what is behind it, which is of a round that never counted.

Once more than half of the file is of states that nobody will ask for, the next round writes the
last state of each silo into a new file. The old one stays until no checkpoint marks it.

    MDW-505 written by another version     MDW-512 not the file that was marked
    MDW-519 a state that is not what was written     MDW-513 to 515 the disk is full or fails
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from flwr.app import RecordDict

from client.context_state import versions
from client.state_entry import LONGEST_LINE, StateEntry, decode, encode
from conf.errors import CheckpointError
from conf.files.faults import disk
from conf.files.whole import sync_folder, write_synced

_NAME: Final = re.compile(r"silo-states-(\d{6})\.bin")
WASTE_BYTES: Final = 4 * 2**20
"""Of entries that nobody will ask for; a file with less is not worth writing anew."""


@dataclass(frozen=True)
class StatesMark:
    """How much of which file counts: its name, its bytes, and the digest that chains its lines."""

    file: str = ""
    """Empty where no silo has a state."""
    bytes: int = 0
    head: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the mark as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> StatesMark:
        """Return the mark that `to_json` wrote; raises KeyError, TypeError or ValueError."""
        mark = StatesMark(raw["file"], raw["bytes"], raw["head"])
        if not isinstance(mark.file, str) or not isinstance(mark.head, str):
            raise TypeError("a mark's file and head are texts")
        if type(mark.bytes) is not int or mark.bytes < 0:
            raise ValueError("a mark's bytes are a whole number")
        if mark.file and not _NAME.fullmatch(mark.file):
            raise ValueError(f"{mark.file[:40]!r} is not the name of a file of states")
        return mark


@dataclass(frozen=True)
class _Place:
    """Where an entry lies in the file."""

    entry: StateEntry
    line: bytes
    at: int
    """The first byte behind its line."""

    @property
    def size(self) -> int:
        return len(self.line) + self.entry.size


@dataclass
class SiloStates:
    """The states of one run's silos: `in_memory` for the engine, and on disk up to `mark`.

    `in_memory` holds a silo's whole `Context.state` by its name, absent where it has none; an
    engine's threads read and replace its values.
    """

    folder: Path
    run: str
    mark: StatesMark = field(default_factory=StatesMark)
    in_memory: dict[str, RecordDict] = field(default_factory=dict)
    _last: dict[str, _Place] = field(default_factory=dict)
    """The place of each silo's last entry."""
    _previous: str = ""
    """The file that the latest checkpoint marks."""
    _outlived: list[Path] = field(default_factory=list)
    """Files that only the checkpoint before it marks."""

    def restore(self) -> None:
        """Take each silo's last state up to the mark into memory, and cut off what is behind it.

        Raises CheckpointError MDW-512, MDW-519 or MDW-505; nothing has been changed then.
        """
        self._previous = self.mark.file
        if self.mark.file:
            path = self.folder / self.mark.file
            with disk("read", path), _opened(path, self.mark) as file:
                self._last = {one.entry.silo: one for one in _places(file, self.mark, path)}
                for silo, place in self._last.items():
                    self.in_memory[silo] = _read(file, place, path)
            with disk("write", path):
                os.truncate(path, self.mark.bytes)
        for other in self._files():
            if _number(other.name) < _number(self.mark.file):
                self._outlived.append(other)
            elif other.name != self.mark.file:
                with disk("delete", other):
                    other.unlink()

    def keep(self, round: int, silos: Iterable[str]) -> StatesMark:
        """Store the states that these silos have after a round in which their updates counted.

        It counts with the checkpoint that holds the mark which this returns. Raises CheckpointError
        MDW-513 to 515, and the file is as it was.
        """
        new = list(self._new(round, silos))
        if not new:
            return self.mark
        live = sum(place.size for place in self._last.values())
        if self.mark.file and self.mark.bytes - live < max(live, WASTE_BYTES):
            self._append(self.mark, new)
        else:
            self._begin_file(round, new)
        return self.mark

    def tidy(self) -> None:
        """Remove files that no checkpoint marks any more; to be called once the round counts."""
        for path in self._outlived:
            with disk("delete", path):
                path.unlink(missing_ok=True)
        self._outlived = []
        if self._previous not in ("", self.mark.file):
            self._outlived = [self.folder / self._previous]
        self._previous = self.mark.file

    def _new(self, round: int, silos: Iterable[str]) -> Iterator[tuple[StateEntry, list[bytes]]]:
        for silo in sorted(silos):
            archive = self.in_memory.get(silo)
            if not archive:
                continue
            state = versions(archive).get((self.run, round))
            if state is not None:
                yield encode(silo, self.run, round, state)

    def _append(self, mark: StatesMark, new: list[tuple[StateEntry, list[bytes]]]) -> None:
        """Write entries behind the mark of an existing file."""
        path = self.folder / mark.file
        data = bytearray()
        places = []
        for entry, parts in new:
            line = entry.line()
            data += line
            places.append(_Place(entry, line, mark.bytes + len(data)))
            for part in parts:
                data += part
        with disk("write", path):
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                # A round that is closed anew after an error overwrites what never counted.
                os.ftruncate(handle, mark.bytes)
                os.lseek(handle, 0, os.SEEK_END)
                write_synced(handle, bytes(data))
            finally:
                os.close(handle)
        head = _chained(mark.head, (place.line for place in places))
        self.mark = StatesMark(mark.file, mark.bytes + len(data), head)
        self._last |= {place.entry.silo: place for place in places}

    def _begin_file(self, round: int, new: list[tuple[StateEntry, list[bytes]]]) -> None:
        """Write the last state of each silo into a file of its own, the new ones last."""
        name = f"silo-states-{round:06d}.bin"
        path = self.folder / name
        changed = {entry.silo for entry, _ in new}
        stay = {silo: one for silo, one in self._last.items() if silo not in changed}
        before = (self.mark, dict(self._last))
        try:
            with disk("write", path):
                places = self._copied(path, stay)
                sync_folder(self.folder)
            head = _chained("", (place.line for place in places))
            self._last = {place.entry.silo: place for place in places}
            self._append(StatesMark(name, sum(place.size for place in places), head), new)
        except CheckpointError:
            self.mark, self._last = before
            # What made the write fail is the error to be told, and a file that no checkpoint marks
            # is removed when the run is resumed.
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def _copied(self, path: Path, stay: Mapping[str, _Place]) -> list[_Place]:
        """Copy entries into a new file, as they are: a damaged one stays one that is noticed."""
        places = []
        at = 0
        with path.open("wb") as target:
            if not stay:
                return []
            with (self.folder / self.mark.file).open("rb") as source:
                for silo in sorted(stay):
                    place = stay[silo]
                    source.seek(place.at)
                    target.write(place.line)
                    target.write(source.read(place.entry.size))
                    places.append(replace(place, at=at + len(place.line)))
                    at += place.size
        return places

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]


def _number(name: str) -> int:
    """Return the round in which a file was begun; 0 for none."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def _chained(head: str, lines: Iterable[bytes]) -> str:
    for line in lines:
        head = hashlib.sha256(head.encode() + line).hexdigest()
    return head


def _opened(path: Path, mark: StatesMark) -> BinaryIO:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise _not_the_marked(path, "it is missing") from None
    size = os.fstat(file.fileno()).st_size
    if size < mark.bytes:
        file.close()
        raise _not_the_marked(path, f"it has {size} of its {mark.bytes} bytes")
    return file


def _places(file: BinaryIO, mark: StatesMark, path: Path) -> list[_Place]:
    """Return the places of all entries up to the mark; their lines must be those that were marked."""
    places = []
    at = 0
    while at < mark.bytes:
        file.seek(at)
        line = file.readline(LONGEST_LINE)
        entry = StateEntry.of_line(line, f"{path}, byte {at},")
        places.append(_Place(entry, line, at + len(line)))
        at += len(line) + entry.size
    if at != mark.bytes or _chained("", (place.line for place in places)) != mark.head:
        raise _not_the_marked(path, "it holds other entries")
    return places


def _read(file: BinaryIO, place: _Place, path: Path) -> RecordDict:
    file.seek(place.at)
    data = file.read(place.entry.size)
    where = f"The state of {place.entry.silo} after round {place.entry.round} in {path}"
    return decode(place.entry, memoryview(data), where)


def _not_the_marked(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "MDW-512",
        f"{path} does not hold the silos' states that the checkpoint marks: {why}.",
        "Restore it from a copy, or start a new run from this one's model (model.init).",
    )
