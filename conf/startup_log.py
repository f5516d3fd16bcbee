"""How long a job took to start: lines that its log holds once each, and that a rehearsal gathers."""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

BEGUN: Final = time.monotonic()
"""The command line imports this module before anything that is heavy."""
MARK: Final = "start-up:"
_noted: set[str] = set()


def note(what: str) -> None:
    """Log once in this process how many seconds it is old at `what`."""
    if what not in _noted:
        _noted.add(what)
        log.info("%s %s %.1f s", MARK, what, time.monotonic() - BEGUN)
