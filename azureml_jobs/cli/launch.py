"""Starting a federation or a part of it, and `launch all`: one run from its keys to its files."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from azureml_jobs.backends.base import ORCHESTRATOR, parts_of
from azureml_jobs.backends.restarts import Restarts
from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.ending import end_jobs
from azureml_jobs.cli.federation import Federation, federation_of
from azureml_jobs.cli.first_line import launched, say
from azureml_jobs.cli.reader import print_while_read
from azureml_jobs.cli.runs import (
    Echo,
    bring_home,
    new_run_id,
    wait_for_run,
)
from azureml_jobs.cli.starting import wait_until_running
from azureml_jobs.cli.statuses import NOBODY_STATUS, SIGNED_OUT_STATUS
from azureml_jobs.cli.watch import log_line
from conf.errors import AzureError, CheckpointError, Interrupted, MeadowError

if TYPE_CHECKING:
    from conf.schema import Conf

Work = Callable[[Federation, str], int]
"""What a launch does with a federation; the text is the command that gives this very launch."""


class LostSight(Exception):
    """A run that goes on can't be seen any more: signed out (None), or an error of Azure."""

    def __init__(self, error: MeadowError | None) -> None:
        super().__init__()
        self.error = error


def print_now(line: str) -> None:
    """Print a line for whoever follows."""
    print_while_read(line)


# ---- the verbs


def launch_all(arguments: Arguments) -> int:
    """Start what is not running yet, have one run done, and end what was started for it."""

    def work(federation: Federation, command: str) -> int:
        return launch_and_run(
            federation, command, detach=arguments.has("--detach"), show=arguments.has("--open")
        )

    return _launch(arguments, "all", work)


def launch_server(arguments: Arguments) -> int:
    """Start the orchestrator's job."""
    return _launch(
        arguments, "orchestrator", lambda federation, _: _start_only(federation, arguments)
    )


def launch_client(arguments: Arguments) -> int:
    """Start one silo's job."""
    role = f"silo:{arguments.get('silo')}"
    return _launch(arguments, role, lambda federation, _: _start_only(federation, arguments))


def _launch(arguments: Arguments, role: str, work: Work) -> int:
    """Do what a launch does for each configuration that the arguments describe."""
    from azureml_jobs.cli.hydra_app import application

    # a scheduler's SIGTERM ends a launch as Ctrl-C does: nothing half-started stays
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    def run(conf: Conf, overrides: list[str], command: str) -> int:
        if arguments.has("silo.file"):
            from azureml_jobs.jobs.silo_file import with_own

            conf = with_own(conf, arguments.get("silo"), Path(arguments.get("silo.file")))
        say(launched(conf, arguments.get("backend")))
        opened = federation_of(arguments, conf)
        federation = Federation(opened.backend, role)
        if arguments.has("--dry-run"):
            return _dry_run(federation)
        return work(federation, command)

    return application(arguments.written, list(arguments.rest), run)


def _dry_run(federation: Federation) -> int:
    name = time.strftime("dry-run-%Y%m%d-%H%M%S")
    folder = Path(".meadow") / federation.conf.federation.name / name
    for file in federation.backend.dry_run(federation.role, folder):
        print(file)
    return 0


def _start_only(federation: Federation, arguments: Arguments) -> int:
    federation.backend.prepare(federation.role)
    start_parts(federation, [], show=arguments.has("--open"))
    return 0


# ---- what they are made of


def start_parts(
    federation: Federation, started: list[str], echo: Echo = print_now, *, show: bool = False
) -> None:
    """Start the role's parts that are not running; name in `started` those that were not, as they
    start.
    """
    for part in parts_of(federation.backend, federation.role):
        job, new = federation.backend.start(part)
        if new:
            started.append(part)
        how = "started" if new else "running already"
        echo(f"{part}: {how}, {job.name}, {job.where}")
        if show:
            import webbrowser

            webbrowser.open(job.where)


def launch_and_run(
    federation: Federation,
    command: str,
    *,
    detach: bool = False,
    show: bool = False,
    echo: Echo = print_now,
) -> int:
    """Do one run; end what was started for it. What Azure does not answer meanwhile ends nothing.

    With `detach`, return as soon as all jobs have started.
    """
    backend = federation.backend
    backend.prepare(federation.role)
    conf = federation.conf
    if conf.run.resume and not federation.is_live():
        # left in the queue by an orchestrator that died: it is asked for anew
        federation.queue.cancel(Path(conf.run.resume).name, live=False)
    run_id = new_run_id(federation)
    submitted = False
    started: list[str] = []
    try:
        follower = Follower(federation, started, echo)
        start_parts(federation, started, echo, show=show)
        if not detach:
            # The run's own time begins when it is asked for: that is last.
            wait_until_running(backend, parts_of(backend, federation.role), echo)
        federation.queue.submit(run_id, conf, command)
        submitted = True
        echo(f"run {run_id}")
        if detach:
            where = f"backend={backend.name}"
            echo(
                f"meadow wait {where} run={run_id} waits for it; meadow stop {where} ends the jobs."
            )
            return 0
        status = _follow(federation, run_id, follower, echo)
    except LostSight as reason:
        print(
            "The jobs go on: meadow wait, meadow download and meadow stop are for them.",
            file=sys.stderr,
        )
        if reason.error is None:
            return SIGNED_OUT_STATUS
        raise reason.error from None
    except BaseException as error:
        _call_off(federation, run_id if submitted else "", started)
        if isinstance(error, KeyboardInterrupt):
            raise _interrupted(backend.name, run_id if submitted else "") from None
        raise
    try:
        if status == NOBODY_STATUS:
            status = _without_orchestrator(federation, run_id, echo)
    finally:
        # Also where the store can't be written: an orchestrator may have ended of a full disk.
        end_jobs(federation, started)
    return status


def _call_off(federation: Federation, run_id: str, started: list[str]) -> None:
    """End what was started, and a run that was asked for.

    Nothing half-started stays, and the next launch does not begin with this run: it is cancelled
    when the orchestrator has ended, which might else end before it has seen the request.
    """
    try:
        end_jobs(federation, started)
    finally:
        if run_id:
            federation.queue.cancel(run_id, live=federation.is_live())


def _interrupted(backend: str, run_id: str) -> Interrupted:
    if not run_id:
        return Interrupted("MDW-902", "Stopped before the run began.", "Launch it again.")
    hint = f"Resume it: meadow launch all backend={backend} run.resume={run_id}."
    return Interrupted("MDW-902", f"Stopped; the run {run_id} is cancelled.", hint)


class Follower:
    """Shows a run that is followed: the orchestrator's lines, and which silos have ended with which
    last words.

    On this machine a job that is killed is started again by the process beside it. Where that one
    has gone as well, an orchestrator is started again from here, and goes on after the last closed
    round; one that ended by itself is not.
    """

    def __init__(self, federation: Federation, started: list[str], echo: Echo) -> None:
        self._backend = federation.backend
        self._started = started
        self._echo = echo
        self._running = [p for p in parts_of(self._backend, federation.role) if p != ORCHESTRATOR]
        self._log = self._backend.log_from_now(ORCHESTRATOR)
        self._restarts = Restarts()
        self._next_look = 0.0

    def look(self) -> None:
        """Show what is new."""
        for label, line in self._log.lines():
            self._echo(log_line(label, line))
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._backend.look_seconds
            for part in list(self._running):
                self._name_if_ended(part)

    def orchestrator_ended(self) -> bool:
        """Start the orchestrator again where it is lost and a silo still waits for it."""
        job = self._backend.job(ORCHESTRATOR)
        # One with a status was looked after to its end.
        if job is None or not job.killed or job.status is not None or not self._running:
            return False
        pause = self._restarts.pause(time.monotonic())
        if pause is None:
            return False
        self._echo("It is lost. It is started again, and goes on after the last closed round.")
        time.sleep(pause)
        _, new = self._backend.start(ORCHESTRATOR)
        if new:
            self._started.append(ORCHESTRATOR)
        return True

    def _name_if_ended(self, part: str) -> None:
        try:
            job = self._backend.job(part)
            if job is None or job.live:
                return
            words = self._backend.last_words(job)
        except AzureError:
            # another workspace, which may refuse or not be reached: the run itself does not depend
            # on this look
            return
        self._running.remove(part)
        self._echo(log_line(part, f"{job.state}: {words}"))


def _follow(federation: Federation, run_id: str, follower: Follower, echo: Echo) -> int:
    """Show a run until it has ended, and bring it home; return its exit status."""
    here = federation.backend.files_here
    try:
        status = wait_for_run(federation, run_id, watcher=follower, echo=echo)
        if status == 0 and not here:
            folder, _ = bring_home(federation, run_id, Path(federation.conf.run.output))
            echo(f"result: {folder}")
    except (AzureError, CheckpointError) as error:
        if here:
            raise
        raise LostSight(error) from None
    if status == SIGNED_OUT_STATUS:
        raise LostSight(None)
    return status


def _without_orchestrator(federation: Federation, run_id: str, echo: Echo) -> int:
    """Cancel a run whose orchestrator has gone; return that one's exit status, where it has one
    that says so.
    """
    federation.queue.cancel(run_id, live=False)
    echo(f"run {run_id}: cancelled; if a round was closed, resume it: run.resume={run_id}")
    job = federation.backend.job(ORCHESTRATOR)
    if job is None or not job.status:
        return NOBODY_STATUS
    # a shell's way to tell the signal that ended a process
    return job.status if job.status > 0 else 128 - job.status
