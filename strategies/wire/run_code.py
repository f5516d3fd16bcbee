"""What a server says of a run's code, in the description of the run, and how a silo reads it.

It travels as trailing headers of `GetRun`, before any message of the run, so that a silo that does
not take part receives no model. A stock Flower server sends none of them.

    MDW-337 a description of the code that can't be read
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from conf.errors import SiloError
from strategies.wire.headers import RUN_CODE, RUN_FILES, RUN_RELEASE, WIRE_VERSION

MAX_FILES: Final = 8
"""The most own files that a run may name."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"[0-9]{1,6}")
# Only where the files of runs are: what a server writes must not lead a silo to any other file.
_FILE: Final = re.compile(r"(client/tasks|client/models|strategies)/[a-z][a-z0-9_]{0,63}\.py")


@dataclass(frozen=True)
class RunCode:
    """A server's word on a run: the version of its wire, and the code that the run executes."""

    wire: int
    digest: str
    """Of what must agree for this run (`conf.code_digest.run_digest`)."""
    release: str
    """Of what must agree for any run of the server's release, as its owner can read it there."""
    files: tuple[str, ...] = ()
    """The run's own files, as paths from the root of the tree."""

    def to_headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that say it."""
        return (
            (WIRE_VERSION, str(self.wire)),
            (RUN_CODE, self.digest),
            (RUN_RELEASE, self.release),
            (RUN_FILES, " ".join(self.files)),
        )

    @staticmethod
    def from_headers(headers: Iterable[tuple[str, str]]) -> RunCode | None:
        """Return what the headers of an answer say, None where they say nothing.

        Raises SiloError MDW-337.
        """
        said = dict(headers)
        if WIRE_VERSION not in said:
            return None
        version = _matching(_VERSION, said, WIRE_VERSION)
        files = tuple(said.get(RUN_FILES, "").split())
        if len(files) > MAX_FILES or not all(_FILE.fullmatch(name) for name in files):
            raise _unreadable(RUN_FILES)
        return RunCode(
            int(version),
            _matching(_DIGEST, said, RUN_CODE),
            _matching(_DIGEST, said, RUN_RELEASE),
            files,
        )


def _matching(pattern: re.Pattern[str], said: dict[str, str], name: str) -> str:
    value = said.get(name, "")
    if not pattern.fullmatch(value):
        raise _unreadable(name)
    return value


def _unreadable(name: str) -> SiloError:
    return SiloError(
        "MDW-337",
        f"The server's description of the run's code can't be read: its header {name}.",
        "Install the same version of Meadow on both sides.",
    )
