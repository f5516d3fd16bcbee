"""Nothing but Meadow speaks on the screen, and no dependency phones home."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns about a future default unless it is chosen
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
"""Read by the libraries when they are imported, or by the processes that they start."""

LOGGERS = ("flwr", "ray", "py.warnings", "server", "client", "strategies", "conf")


def quiet_environment() -> None:
    """Turn off the telemetry of Flower, Ray and MLflow where the user has not chosen; before they are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def logs_to(folder: Path) -> Iterator[None]:
    """Send what Flower, Ray, Meadow and Python's warnings have to say to `folder/server.log`, not to the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(folder / "server.log", delay=True)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:], logger.propagate = [to_file], False
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        to_file.close()
