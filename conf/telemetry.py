"""No dependency phones home: the variables that turn telemetry off, and where they are set.

`client`, `server` and the command line set them before they import a library that reads them; each
job's own variables hold them too.
"""

from __future__ import annotations

import os
from typing import Final

OFF: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""Read by Flower, Ray and MLflow when they are imported, or by the processes that they start."""


def turn_off() -> None:
    """Turn off the telemetry of Flower, Ray and MLflow where the user has not chosen; before they
    are imported.
    """
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
