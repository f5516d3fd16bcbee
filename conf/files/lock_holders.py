"""Who holds a lock, by the line that its holder wrote into the lock's file.

    BOOT:NAMESPACE:PID:TICKS HOST PID SINCE

The line is a claim of whoever may write the file: it is read up to a bound, cleaned, and shown as
what the file says. Only a process of this machine that is the named one by its boot, its namespace
and its start is looked at, and told of by what the system says.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Final

from conf.border import one_line
from conf.process_birth import has_ended, is_stopped, this_process

SIZE: Final = 240
"""Bytes to which a line is filled up with blanks."""
LARGEST: Final = 400
"""Bytes of a line that are read."""
_LONGEST: Final = 64
"""Letters of a host or a time that are shown."""
_LONGEST_PID: Final = 10


def own_line() -> bytes:
    """Return what this process writes into the file of a lock that it has taken."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{this_process()} {socket.gethostname()} {os.getpid()} {since}".encode()


@dataclass(frozen=True)
class Holder:
    """What a lock's file says of its holder; each part may be empty."""

    process: str = ""
    """For `conf.process_birth.has_ended`."""
    host: str = ""
    pid: str = ""
    since: str = ""

    @classmethod
    def of(cls, line: bytes) -> Holder:
        """Read the line of a lock's file, whoever has written it."""
        text = line[:LARGEST].decode("utf-8", "replace")
        # The name may be empty, so the first blank counts also where nothing is before it.
        process, _, rest = text.partition(" ")
        host, pid, since, *_ = [*one_line(rest).split(" "), "", "", ""]
        known_pid = pid if pid.isascii() and pid.isdecimal() and len(pid) <= _LONGEST_PID else ""
        return cls(process, host[:_LONGEST], known_pid, since[:_LONGEST])

    def in_words(self) -> str:
        """Return who it is, as far as its file says and this machine knows."""
        if not (self.process or self.pid) or has_ended(self.process):
            # A holder that could not write (a full disk, another release) leaves the line of the
            # one before it, who let go of the lock when it ended at the latest.
            return "a process that its file does not name"
        if self.process == this_process():
            return f"another thread of this process since {self.since}"
        process = f"process {self.pid}" if self.pid else "a process"
        host = f" of {self.host}" if self.host else ""
        since = f" since {self.since}" if self.since else ""
        stopped = ", which is stopped" if is_stopped(self.process) else ""
        return f"{process}{host}{since} by what its file says{stopped}"

    def remedy(self) -> str:
        """Return what a person can do about it."""
        if is_stopped(self.process):
            # The number is in the name that the system has confirmed, and not only in the line.
            pid = self.process.split(":")[-2]
            return f"Let it go on (kill -CONT {pid}) or end it (kill -KILL {pid})."
        return (
            "Find the process that uses the folder and stands still, and let it go on or end it:"
            " with its end the lock is free."
        )
