"""The relay's process: from its file to its end by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from pathlib import Path
from typing import Final

from azureml_jobs.relay.relay import Relay
from azureml_jobs.relay.settings import RelaySettings, read_settings
from conf.job_logs import log_to_stderr

log = logging.getLogger(__name__)

MOST_FILES: Final = 65_536


def run(file: Path) -> int:
    """Be the relay that a file describes until SIGTERM or SIGINT; return the exit status.

    Raises ConfigError MDW-117, and those of a wrong key or value.
    """
    settings = read_settings(file)
    log_to_stderr()
    _allow_many_files()
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: RelaySettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    relay = Relay(settings)
    async with relay.running():
        names = ", ".join(sorted(settings.federations))
        log.info("relay %s listens at %s for %s", settings.file.name, relay.address, names)
        await stopped.wait()
        log.info("the relay ends")


def _allow_many_files() -> None:
    """Raise this process's own limit of open files as far as its user may: two for each stream."""
    now, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if allowed == resource.RLIM_INFINITY else min(MOST_FILES, allowed)
    if now != resource.RLIM_INFINITY and now < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))
