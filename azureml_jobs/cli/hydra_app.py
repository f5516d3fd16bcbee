"""A verb as a Hydra application: `--help`, `--cfg`, `--multirun` and the rest are Hydra's own.

Before Hydra runs anything, every configuration that the arguments describe (each child of a sweep
too) is composed and validated, so that a mistake in the last child stops before the first one
starts, in our words and with our exit status. `--config-path`, `--config-name`,
`--experimental-rerun` and `--shell-completion` are refused: the first two would replace the schema,
the third unpickles a file, and completion knows of no verbs. `conf/config.yaml` has the help.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from azureml_jobs.cli.main import describe
from conf.compose import compose, finish
from conf.errors import ConfigError, Interrupted, MeadowError
from conf.overrides import SEARCHPATH, parse, ready, typed
from conf.schema import Conf

Task = Callable[[Conf, list[str], str], int]
"""What a verb does with a configuration, its overrides and the command that gives this very run;
the exit status.
"""

REFUSED: Final = ("config_path", "config_name", "experimental_rerun", "shell_completion")
"""Flags of Hydra's that are not offered."""


Check = Callable[[Conf], None]
"""What else is wrong with a configuration that composes; raises MeadowError."""


def application(
    words: Sequence[str], args: list[str], task: Task, check: Check | None = None
) -> int:
    """Run `task` for the configuration that `args` describe, or for each of a sweep; return the
    exit status.

    `words` are the verb and its own arguments, as they stand in the command that gives the same
    run. `check` looks at each configuration before the first run. Raises ConfigError before
    anything starts, and what the task raised in a single run. In a
    sweep a child's MeadowError is printed, the next child runs, and the first failure's status is
    returned.
    """
    verb = words[0]
    given = _parsed(verb, args)
    _check(given, check)
    added = ["--config-dir", given.config_dir] if given.config_dir else []
    jobs = _Jobs(["meadow", *words, *added], task)
    argv = sys.argv
    sys.argv = [f"meadow {verb}", *_flags(given), *ready([*_folder(given), *given.overrides])]
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(jobs.run)()
    except _Stop as stop:
        raise stop.reason from None
    except SystemExit as stop:  # Hydra's way out, its message already printed
        if stop.code:
            return 1 if jobs.started else ConfigError.exit_status
    except (HydraException, ValueError) as error:  # flags that don't go together
        raise ConfigError(
            "MDW-111", f"meadow {verb}: {error}.", f"See meadow {verb} --help."
        ) from error
    finally:
        sys.argv = argv
    return jobs.status()


class _Jobs:
    """What Hydra calls for each run; keeps the failures, because Hydra would print and swallow
    them.
    """

    def __init__(self, command: list[str], task: Task) -> None:
        self._command = command
        self._task = task
        self.started = False
        self._failures: list[BaseException] = []
        self._statuses: list[int] = []
        self._sweep = False

    def run(self, cfg: DictConfig) -> None:
        """Run one configuration."""
        app = HydraConfig.get()
        self.started = True
        overrides = list(app.overrides.task)
        self._sweep = app.mode == RunMode.MULTIRUN
        try:
            conf = finish(cfg, overrides, dict(app.runtime.choices))
            if self._sweep:
                conf.run.output = app.sweep.dir
                print(
                    f"--- run {int(app.job.num) + 1} of the sweep: {' '.join(_written(app))}",
                    flush=True,
                )
            written = _written(app)
            command = shlex.join([*self._command, *written])
            self._statuses.append(self._task(conf, written, command))
        except (KeyboardInterrupt, Interrupted) as stop:
            raise _Stop(stop) from stop  # Hydra would go on with the next run of a sweep
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._failures.append(error)
        self._statuses.append(error.exit_status if isinstance(error, MeadowError) else 1)
        if self._sweep and isinstance(error, MeadowError):
            print(describe(error), file=sys.stderr, flush=True)
        elif self._sweep:
            traceback.print_exception(error)

    def status(self) -> int:
        """Return the exit status of all runs, the first that is not 0.

        Raises what a single run raised.
        """
        if self._failures and not self._sweep:
            raise self._failures[0]
        return next((status for status in self._statuses if status), 0)


def _written(app: HydraConf) -> list[str]:
    """Return a run's overrides as a person writes them: without our `++`, without what Hydra adds
    itself.
    """
    # `--config-dir` stands before the overrides, and is this key to Hydra.
    not_typed = ("hydra.mode=", f"{SEARCHPATH}=")
    own = [text for text in app.overrides.hydra if not text.startswith(not_typed)]
    return [*typed([text.removeprefix("++") for text in app.overrides.task]), *own]


class _Stop(BaseException):
    """Carries an interruption past Hydra."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _parsed(verb: str, args: list[str]) -> argparse.Namespace:
    """Return the arguments as Hydra's own parser reads them, flags and overrides in any order."""
    parser = get_args_parser()
    parser.prog = f"meadow {verb}"

    def refuse(message: str) -> NoReturn:
        raise ConfigError("MDW-111", f"meadow {verb}: {message}.", f"See meadow {verb} --help.")

    parser.error = refuse  # type: ignore[method-assign]  # argparse would print its own form and exit
    given = parser.parse_intermixed_args(args)
    for name in REFUSED:
        if getattr(given, name) not in (None, False):
            instead = (
                "; add files of your own with --config-dir" if name.startswith("config") else ""
            )
            refuse(f"--{name.replace('_', '-')} is not offered{instead}")
    if given.config_dir is not None and not Path(given.config_dir).is_dir():
        refuse(f"--config-dir {given.config_dir} is no folder")
    if any(text.lstrip("+").startswith(f"{SEARCHPATH}=") for text in given.overrides):
        refuse(f"{SEARCHPATH} is not offered; add files of your own with --config-dir")
    return given


def _folder(given: argparse.Namespace) -> list[str]:
    """Return the override that lets Hydra look for files in the folder of `--config-dir`."""
    if given.config_dir is None:
        return []
    folder = str(Path(given.config_dir).resolve()).replace("'", r"\'")
    return [f"{SEARCHPATH}=['{folder}']"]


def _flags(given: argparse.Namespace) -> list[str]:
    others = ("overrides", "config_dir")
    values = {name: value for name, value in vars(given).items() if name not in others and value}
    flags = [
        [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
        for name, value in values.items()
    ]
    return [word for flag in flags for word in flag]


def _check(given: argparse.Namespace, check: Check | None) -> None:
    """Compose and validate all that the arguments describe.

    Raises ConfigError for the first mistake.
    """
    if given.hydra_help or given.info:
        return
    extra = _folder(given)
    names: set[str] = set()
    children = _children(given)
    for overrides in children:
        try:
            conf = compose([*extra, *overrides])
            _own_name(conf, names)
            if check is not None and not _shows(given):
                check(_as_in_sweep(conf) if given.multirun else conf)
        except ConfigError as error:
            if not (
                _shows(given) and error.code in ("MDW-104", "MDW-105")
            ):  # a wrong value can still be looked at
                raise


def _as_in_sweep(conf: Conf) -> Conf:
    """Return a sweep's run without its name: it goes into a new folder, where every name is free."""
    return dataclasses.replace(conf, run=dataclasses.replace(conf.run, name=None))


def _own_name(conf: Conf, names: set[str]) -> None:
    """Add a run's name to those of the sweep so far; runs that go on with a stored one keep its
    name.
    """
    name = None if conf.run.resume else conf.run.name
    if name in names:
        raise ConfigError(
            "MDW-105",
            f"run.name={name} names more than one run of the sweep.",
            "Each run of a sweep needs its own name: leave run.name out.",
        )
    if name is not None:
        names.add(name)


def _shows(given: argparse.Namespace) -> bool:
    return bool(given.help or given.cfg)


def _children(given: argparse.Namespace) -> list[list[str]]:
    """Return the overrides of each run: those of a sweep as Hydra's basic sweeper parts them,
    otherwise one.
    """
    overrides = list(given.overrides)
    other_sweeper = any(text.startswith("hydra/sweeper=") for text in overrides)
    if not (given.multirun or "hydra.mode=MULTIRUN" in overrides) or other_sweeper:
        return [] if other_sweeper else [overrides]
    try:
        (children,) = BasicSweeper.split_arguments(parse(overrides), None)
    except HydraException as error:
        raise ConfigError(
            "MDW-100", f"The sweep can't be parted: {error}.", "Give lists: key=a,b,c."
        ) from error
    return children
