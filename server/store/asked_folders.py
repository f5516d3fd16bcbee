"""What a run that somebody asked an orchestrator for may read on the orchestrator's disk.

First weights go to every silo, and what a task reads as its central test set shows in the metrics. So
a request names no file of its own choice: it may start from a run of this orchestrator, read what the
server was launched with, and what lies in a folder that its owner lists.

    MDW-115 a request that would have something read which the orchestrator's owner did not allow
"""

from __future__ import annotations

from pathlib import Path

from conf.errors import ConfigError
from conf.files.homes import expanded
from conf.schema import Conf


def check_folders(asked: Conf, own: Conf) -> None:
    """Raise ConfigError MDW-115 where a request would have a file or folder read that is not allowed.

    `own` is what the orchestrator was launched with.
    """
    output = Path(own.run.output)
    if asked.model.init is not None and asked.model.init != own.model.init:
        # A name without a folder is that of a run, which lies below the orchestrator's own.
        among_runs = output / asked.model.init
        is_run = asked.model.init == Path(asked.model.init).name and among_runs.is_dir()
        path = among_runs if is_run else Path(asked.model.init)
        _check("model.init", path, [str(output), *own.federation.orchestrator.read_from])
    if asked.data.root is not None and asked.data.root != own.data.root:
        _check("data.root", Path(asked.data.root), own.federation.orchestrator.read_from)


def _check(key: str, path: Path, allowed: list[str]) -> None:
    # Links are followed first: one in an allowed folder may lead out of it.
    meant = expanded(path).resolve()
    if any(meant.is_relative_to(expanded(folder).resolve()) for folder in allowed):
        return
    what = f"The request's {key}={str(path)[:200]} may not be read here."
    hint = (
        "The orchestrator's owner can allow it: launch the server with"
        " federation.orchestrator.read_from=[FOLDER]."
    )
    raise ConfigError("MDW-115", what, hint)
