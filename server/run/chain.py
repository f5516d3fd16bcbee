"""What the two chained logs share, the ledger and the history: lines that hold the digest of the
line before.
"""

from __future__ import annotations

import hashlib
from typing import Final

NOTHING: Final = "0" * 64
"""What the first line holds as the digest of the line before it."""


def line_digest(line: bytes) -> str:
    """Return the SHA-256 of a line without its newline, in hex."""
    return hashlib.sha256(line).hexdigest()


def whole_lines(data: bytes) -> tuple[list[bytes], int]:
    """Return the lines that end in a newline, and how many bytes they take."""
    *lines, rest = data.split(b"\n")
    return lines, len(data) - len(rest)
