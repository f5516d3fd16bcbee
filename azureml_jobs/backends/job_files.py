"""The files that say of a job on this machine what runs and how it ended: `jobs/<name>/*.json`.

MDW-198 a damaged file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from conf.errors import ConfigError
from conf.files.whole import write_atomic

JOB_FILE: Final = "job.json"
"""What runs: the command, its process, the supervisor's, how often it is started again."""
EXIT_FILE: Final = "exit.json"
"""How it ended; there is none while it runs."""
STOP_FILE: Final = "stop"
"""There once somebody asked it to end: it is not started again."""


def damaged(path: Path) -> ConfigError:
    """Return the error of a file that can't be read."""
    hint = f"End its process by hand if it runs, then delete {path.parent / '*.json'}."
    return ConfigError("MDW-198", f"{path} is damaged.", hint)


def read_file(path: Path) -> dict[str, Any] | None:
    """Return what a job's file holds, None where there is none.

    Raises ConfigError MDW-198 for a damaged one.
    """
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise damaged(path) from None
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def write_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a job's file, whole or not at all."""
    write_atomic(path, json.dumps(content))
