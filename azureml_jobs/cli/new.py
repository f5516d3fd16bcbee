"""`meadow new`: write the file of a task, a model or a strategy, and its test, in this folder."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Final

from azureml_jobs.cli import new_files
from azureml_jobs.cli.arguments import Arguments
from conf.errors import ConfigError

NAMES: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def new_task(arguments: Arguments) -> int:
    """Write a task, its test, and the rows that it learns."""
    name = _name(arguments)
    return _write(
        {
            f"{name}.py": new_files.filled(new_files.TASK, name),
            f"test_{name}.py": new_files.filled(new_files.TASK_TEST, name),
            f"{name}.csv": new_files.example_rows(),
        }
    )


def new_model(arguments: Arguments) -> int:
    """Write a model and its test."""
    name = _name(arguments)
    return _write(
        {
            f"{name}.py": new_files.filled(new_files.MODEL, name),
            f"test_{name}.py": new_files.filled(new_files.MODEL_TEST, name),
        }
    )


def new_strategy(arguments: Arguments) -> int:
    """Write a strategy with both its halves, and its test."""
    name = _name(arguments)
    return _write(
        {
            f"{name}.py": new_files.filled(new_files.STRATEGY, name),
            f"test_{name}.py": new_files.filled(new_files.STRATEGY_TEST, name),
        }
    )


def _name(arguments: Arguments) -> str:
    """Return the name of a module that nothing else has.

    Raises ConfigError MDW-126.
    """
    name = arguments.values["NAME"]
    why = None
    if not NAMES.fullmatch(name) or keyword.iskeyword(name):
        why = "a name has small letters, digits and '_', and begins with a letter"
    elif name in sys.stdlib_module_names or name in _OURS:
        why = "a module of this name is there already, and one of them would hide the other"
    if why:
        raise ConfigError("MDW-126", f"{name[:100]!r} can't be the name: {why}.", "Choose another.")
    return name


_OURS: Final = ("azureml_jobs", "client", "conf", "meadow", "server", "strategies", "flwr", "torch")


def _write(files: dict[str, str]) -> int:
    """Write all of the files, or none where one of them is there.

    Raises ConfigError MDW-127.
    """
    for name in files:
        if Path(name).exists():
            hint = "Choose another name, or delete it."
            raise ConfigError("MDW-127", f"{name} is here already; nothing was written.", hint)
    for name, text in files.items():
        # "x": a file that came in the meantime is not written over either.
        with open(name, "x", encoding="utf-8") as file:
            file.write(text)
        print(f"wrote {name}")
    first = next(iter(files))
    print(f"Its first lines say how to run it: head {first}")
    return 0
