"""One run of a federation: asked for, waited for, brought home."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.asking_again import Patience
from azureml_jobs.cli.federation import Federation, federation_of
from azureml_jobs.cli.starting import Starting
from azureml_jobs.cli.statuses import NOBODY_STATUS, SIGNED_OUT_STATUS, TIMEOUT_STATUS
from azureml_jobs.identity.azure_meanings import NOT_SIGNED_IN
from conf.errors import AzureError, CheckpointError, ConfigError, MeadowError
from conf.files.whole import write_atomic
from conf.targets.asked import check_brought_home

if TYPE_CHECKING:
    from conf.schema import Conf
    from server.store.run_queue import Outcome as Outcome

Echo = Callable[[str], None]


class Watcher(Protocol):
    """What happens between two looks at a run that is followed."""

    def look(self) -> None:
        """Show what is new."""

    def orchestrator_ended(self) -> bool:
        """Return whether another orchestrator was started in the place of one that has gone."""


# ---- the verbs


def submit(arguments: Arguments) -> int:
    """Give a run to the orchestrator."""
    from azureml_jobs.cli.hydra_app import application

    def work(conf: Conf, overrides: list[str], command: str) -> int:
        federation = federation_of(arguments, conf)
        federation.backend.check_exists()
        federation.backend.check_asked(conf, overrides)
        print(f"run {submit_run(federation, command)}")
        if not federation.is_live():
            backend = federation.backend.name
            hint = f"meadow launch server backend={backend} starts one."
            print(f"No orchestrator is running: {hint}", file=sys.stderr)
        return 0

    return application(arguments.written, list(arguments.rest), work)


def wait(arguments: Arguments) -> int:
    """Wait for the end of a run and return the exit status that it stands for."""
    seconds = arguments.number("timeout", float("inf"))
    federation = federation_of(arguments)
    federation.backend.check_exists()
    run_id = arguments.get("run")
    starting = Starting(federation, run_id, print)
    return wait_for_run(federation, run_id, seconds, starting=starting)


def download(arguments: Arguments) -> int:
    """Bring a run's files into run.output, or say where on this machine they are."""
    federation = federation_of(arguments)
    federation.backend.check_exists()
    output = Path(federation.conf.run.output)
    folder, files = bring_home(federation, arguments.get("run"), output)
    print(f"{files} files: {folder}")
    return 0


# ---- what they are made of


def submit_run(federation: Federation, command: str) -> str:
    """Put a run into the queue and return its id.

    Raises ConfigError MDW-181 or MDW-187 for a name that is taken.
    """
    run_id = new_run_id(federation)
    federation.queue.submit(run_id, federation.conf, command)
    return run_id


def new_run_id(federation: Federation) -> str:
    """Return the id of a run that is about to be asked for.

    Raises ConfigError MDW-181 or MDW-187 for a name that is taken.
    """
    from datetime import datetime

    conf = federation.conf
    run_id = Path(conf.run.resume).name if conf.run.resume else conf.run.name
    if run_id is None:
        now = f"{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3]
        run_id = f"{conf.task.name}-{conf.strategy.name}-{now}"
    elif not conf.run.resume and (Path(conf.run.output) / run_id).exists():
        what = f"run.name={run_id}: {Path(conf.run.output) / run_id} exists already."
        raise ConfigError("MDW-181", what, f"Choose another, or run.resume={run_id}.")
    federation.queue.check_free(run_id, conf)
    return run_id


def wait_for_run(
    federation: Federation,
    run_id: str,
    seconds: float = float("inf"),
    watcher: Watcher | None = None,
    echo: Echo = print,
    starting: Starting | None = None,
) -> int:
    """Return a run's exit status once it has ended, or the status that says why it is waited for no
    longer.

    Azure that is not reached is borne for a while. Raises MeadowError.
    """
    end = time.monotonic() + seconds
    patience = Patience(federation.backend)
    while True:
        try:
            # asked before the last look at the run: one that ended in between is seen in the next
            # round
            live = federation.is_live()
            outcome = federation.queue.outcome(run_id)
            for looking in (watcher, starting):
                if looking is not None:
                    looking.look()
            patience.answered()
        except (AzureError, CheckpointError) as error:
            if error.code == NOT_SIGNED_IN:
                print(f"error {error}", file=sys.stderr)
                return SIGNED_OUT_STATUS
            patience.bear(error)
        else:
            if outcome is not None:
                return _ended(federation, run_id, outcome, echo)
            status = None if live else _without_orchestrator(federation, watcher)
            if status is not None:
                return status
        if time.monotonic() >= end:
            print(f"The run {run_id} has not ended in {seconds:g} s.", file=sys.stderr)
            return TIMEOUT_STATUS
        time.sleep(min(patience.pause(), max(0.0, end - time.monotonic())))


def _without_orchestrator(federation: Federation, watcher: Watcher | None) -> int | None:
    """Return the status of a run that no orchestrator does; None where one was started again."""
    if watcher is None:
        return _nobody(federation)
    return None if watcher.orchestrator_ended() else NOBODY_STATUS


def cancel_run(federation: Federation, run_id: str) -> bool:
    """End a run, or ask the live orchestrator for it; return whether one is live.

    Raises ConfigError MDW-183 for a run that was never asked for.
    """
    federation.queue.outcome(run_id)
    live = federation.is_live()
    federation.queue.cancel(run_id, live=live)
    return live


def bring_home(federation: Federation, run_id: str, output: Path) -> tuple[Path, int]:
    """Return the folder with a run's files, below `output`, and how many they are.

    On this machine they are where the run wrote them; they are copied where `output` is another
    folder. Raises AzureError MDW-802 where there are none.
    """
    target = output / run_id
    if not federation.backend.files_here:
        return target, _downloaded(federation, run_id, target)
    outcome = federation.queue.outcome(run_id)
    source = Path(outcome.folder) if outcome is not None and outcome.folder else target
    if not source.is_dir():
        raise _no_files(run_id)
    if source.resolve() != target.resolve():
        shutil.copytree(source, target, dirs_exist_ok=True)
    return target, sum(path.is_file() for path in target.rglob("*"))


def _downloaded(federation: Federation, run_id: str, target: Path) -> int:
    prefix = f"results/{run_id}/"
    names = [name for name in federation.store.list(prefix) if ".." not in name]
    if not names:
        raise _no_files(run_id)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        inside = name.removeprefix(prefix)
        content = federation.store.read(name)
        if inside == "config.yaml":
            check_brought_home(content, run_id)
        path = target / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return len(names)


def _no_files(run_id: str) -> MeadowError:
    hint = "A run's files are there when it has ended: meadow wait."
    return AzureError("MDW-802", f"There are no files of the run {run_id}.", hint)


def _ended(federation: Federation, run_id: str, outcome: Outcome, echo: Echo) -> int:
    """Say how a run ended, and where on this machine its files are; return its exit status."""
    why = f": {outcome.reason}" if outcome.reason else ""
    echo(f"run {run_id}: {outcome.status}{why}")
    if outcome.folder and federation.backend.files_here:
        echo(f"result: {outcome.folder}")
    return outcome.exit


def _nobody(federation: Federation) -> int:
    hint = f"meadow launch server backend={federation.backend.name} starts one, which goes on with the run."
    print(f"No orchestrator is running: {hint}", file=sys.stderr)
    return NOBODY_STATUS
