"""Standard output, whose reader may go at any time: `meadow launch all | head -1`."""

from __future__ import annotations

import os
import sys


def print_while_read(line: str) -> None:
    """Print a line at once; where nobody reads any more, nothing is printed and nothing ends."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        nobody_reads()


def flush() -> None:
    """Hand over what was printed; raises BrokenPipeError where nobody reads it any more."""
    if sys.stdout is not None:
        sys.stdout.flush()


def nobody_reads() -> None:
    """Let what is still printed, also at exit, go nowhere."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process
