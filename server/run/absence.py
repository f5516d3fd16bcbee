"""Codes of silos that gave no answer to a round, and when one is named for it."""

from __future__ import annotations

from typing import Final

LATE: Final = "MDW-359"
IDLE: Final = "MDW-360"
GONE: Final = "MDW-361"
"""Working, connected and not working, not there."""
TWINS: Final = "MDW-362"
"""The code of two processes that use one key."""
TOLD_ROUNDS: Final = 3
"""Rounds in a row after which a silo is named, and again after as many more."""
WHAT: Final = {
    LATE: "too late",
    IDLE: "connected without ever asking for its work",
    GONE: "gone",
}
