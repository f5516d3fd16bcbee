"""Nothing but Meadow speaks on the screen."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from conf.job_logs import formatter
from conf.telemetry import turn_off

LOGGERS = ("flwr", "ray", "py.warnings", "server", "client", "strategies", "conf")


def quiet_environment() -> None:
    """Silence the libraries where the user has not chosen, their telemetry included; before they
    are imported.
    """
    turn_off()
    # Ray warns of a future default unless it is set. Nothing hangs on its value: an actor asks for
    # its part of a GPU, or is told that none is meant (`server.engines.ray_gpus`).
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


class PrivateLog(logging.FileHandler):
    """A log that its user alone may read: it names silos, and says what became of them."""

    def _open(self) -> TextIOWrapper:
        descriptor = private(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return os.fdopen(descriptor, "a", encoding="utf-8")


def private(path: str, flags: int) -> int:
    """Open a file of this user alone, as the `opener` of `open`."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def logs_to(folder: Path) -> Iterator[None]:
    """Send what Flower, Ray, Meadow and Python's warnings have to say to `folder/server.log`, not
    to the screen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_file = PrivateLog(folder / "server.log", delay=True)
    to_file.setFormatter(formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
