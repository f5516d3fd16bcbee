"""The exit statuses of a run that is waited for, on every backend; those of errors are in
`conf.errors`.
"""

from __future__ import annotations

from typing import Final

from conf.errors import Interrupted

TIMEOUT_STATUS: Final = 124
"""The time of a wait is over; as the command `timeout` has it."""
NOBODY_STATUS: Final = 125
"""No orchestrator is there to do the run."""
SIGNED_OUT_STATUS: Final = 126
"""The caller is not signed in to Azure any more; the run goes on."""

ENDS: Final = (
    ("0", "finished, or stopped early as configured"),
    ("2-9", "failed: the class of its error (docs/errors.md); 5 is a lost quorum"),
    (str(Interrupted.exit_status), "cancelled, or Ctrl-C here"),
    (str(NOBODY_STATUS), "no orchestrator is running"),
    (str(SIGNED_OUT_STATUS), "not signed in to Azure any more (MDW-803); the run goes on"),
)
"""What they mean, for the help."""
TIME_IS_OVER: Final = (str(TIMEOUT_STATUS), "the time is over; the run goes on")
